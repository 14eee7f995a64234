"""Asks a real broker, cell by cell, what each identity may do there."""

from __future__ import annotations

import itertools
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Final

import yaml
from msgspec import Struct

from broker.access import Access, Action, Identity, Rule
from broker.password import hash_password
from provisioning.access import access
from tests.broker.raw import ACCEPTED, PUBACK, PUBLISH, REFUSED, RawClient

if TYPE_CHECKING:
    from tests.broker.raw import Packet, Place

PASSWORD: Final = "secret"  # noqa: S105 - of nobody
WATCHER, SPEAKER, READER = "watcher", "speaker", "reader"
"""Identities of the tests that may do everything."""


class Matrix(Struct, frozen=True):
    """The file of expectations.

    Attributes:
        roles: identity → role.
        weaker: kind of broker → letter → letter that decides instead.
        cells: identity → topic → letters.
        filters: identity → filter → letters.
    """

    roles: dict[str, str]
    weaker: dict[str, dict[str, str]]
    cells: dict[str, dict[str, str]]
    filters: dict[str, dict[str, str]]

    def expected(self, kind: str, name: str) -> dict[str, set[str]]:
        """Return the topics and filters at which an identity may do what each letter stands for."""
        cells = self.cells[name]
        may = {letter: {topic for topic, letters in cells.items() if letter in letters} for letter in "prwsgk"}
        may["s"] |= {topic_filter for topic_filter, letters in self.filters[name].items() if "s" in letters}
        for letter, instead in self.weaker[kind].items():
            may[letter] = set(cells) | set(self.filters[name]) if instead == "always" else may[instead]
        return may


def read_matrix() -> Matrix:
    document = yaml.safe_load(Path(__file__).with_name("access_matrix.yaml").read_text())
    return Matrix(document["identities"], document["weaker"], _table(document["topics"]), _table(document["filters"]))


def _table(table: str) -> dict[str, dict[str, str]]:
    head, *lines = (line.split() for line in table.splitlines())
    columns: dict[str, dict[str, str]] = {name: {} for name in head[1:]}
    for topic, *cells in lines:
        assert len(cells) == len(columns)
        for column, cell in zip(columns.values(), cells, strict=True):
            column[topic] = cell.strip(".")
    return columns


def matrix_access(matrix: Matrix) -> Access:
    """Return the rules of the model, with those of the tests beside its identities."""
    hashed = hash_password(PASSWORD, iterations=10)
    model = access(Identity(name, role, hashed) for name, role in matrix.roles.items())
    tests = tuple(Identity(name, "test", hashed) for name in (WATCHER, SPEAKER, READER))
    return Access(1, model.roles | {"test": (Rule("#", tuple(Action)),)}, (*model.identities, *tests))


class Prober:
    """Finds out what one broker lets identities do: a watcher, who reads everything, sees what comes of it.

    No answer is waited for that may not come: a message that is sure to come is sent behind each series.
    """

    def __init__(self, broker: Place) -> None:
        self._broker = broker
        self._watcher = self._connect(WATCHER)
        self._watcher.subscribe("#")
        self._speaker = self._connect(SPEAKER)
        self._ends = itertools.count()

    def close(self) -> None:
        self._watcher.socket.close()
        self._speaker.socket.close()

    def probe(self, name: str, topics: list[str], filters: list[str], readable: str) -> dict[str, set[str]]:
        """Return where an identity may do what each letter stands for.

        Args:
            name: of the identity.
            topics: to try everything at.
            filters: to try to subscribe to.
            readable: a topic that it may read.
        """
        found: dict[str, set[str]] = {"w": self._wills(name, topics)}
        with self._connect(name) as client:
            for letter, retain in (("p", False), ("r", True)):
                for mid, topic in enumerate(topics, 1):
                    client.publish(topic, letter.encode(), mid, retain=retain)
                for _ in topics:
                    client.read_until(PUBACK)
                found[letter] = self._seen(letter.encode())
            found["r"] &= self._retained(b"r", topics)
            asked = [*topics, *filters]
            codes, _ = client.subscribe_all(asked)
            found["s"] = {topic for topic, code in zip(asked, codes, strict=True) if code != REFUSED}
            found["g"] = self._received(client, topics, readable)
        found["k"] = self._kept(name, topics, asked)
        return found

    def _connect(self, name: str) -> RawClient:
        return RawClient(self._broker).connect(name, username=name, password=PASSWORD)

    def _wills(self, name: str, topics: list[str]) -> set[str]:
        for topic in topics:
            with RawClient(self._broker) as client:
                code = client.try_connect(name, will=topic, will_payload=b"w", username=name, password=PASSWORD)
                if code == ACCEPTED:
                    client.socket.shutdown(socket.SHUT_WR)
                    assert client.closed(5)  # the broker has seen it go
        return self._seen(b"w")

    def _received(self, client: RawClient, topics: list[str], readable: str) -> set[str]:
        for topic in topics:
            self._speaker.publish_acknowledged(topic, b"g")
        end = self._say_end(readable)
        return {packet.topic for packet in _until(client, end) if packet.payload == b"g"}

    def _kept(self, name: str, topics: list[str], asked: list[str]) -> set[str]:
        """Return where an identity is given what was retained before it came; asks with all filters."""
        for topic in topics:
            self._speaker.publish_acknowledged(topic, b"k", retain=True)
        with self._connect(name) as client:
            _, packets = client.subscribe_all(asked)
            packets += client.barrier()
        self._clear(topics)
        return {packet.topic for packet in packets if packet.retain and packet.payload == b"k"}

    def _seen(self, payload: bytes) -> set[str]:
        """Return where the watcher saw a payload since it was asked last."""
        end = self._say_end("end")
        return {packet.topic for packet in _until(self._watcher, end) if packet.payload == payload}

    def _retained(self, payload: bytes, topics: list[str]) -> set[str]:
        """Return where a payload is retained, and clear it."""
        with self._connect(READER) as reader:
            reader.subscribe("#")
            end = self._say_end("end")
            kept = {packet.topic for packet in _until(reader, end) if packet.retain and packet.payload == payload}
        self._clear(topics)
        return kept

    def _clear(self, topics: list[str]) -> None:
        for topic in topics:
            self._speaker.publish_acknowledged(topic, retain=True)

    def _say_end(self, topic: str) -> bytes:
        """Publish a payload that comes once."""
        payload = b"end %d" % next(self._ends)
        self._speaker.publish_acknowledged(topic, payload)
        return payload


def _until(client: RawClient, payload: bytes) -> list[Packet]:
    """Return the messages that come before one with this payload; acknowledges them."""
    messages = []
    while (packet := client.read()).payload != payload or packet.kind != PUBLISH:
        if packet.kind == PUBLISH:
            client.acknowledge(packet.mid)
            messages.append(packet)
    client.acknowledge(packet.mid)
    return messages
