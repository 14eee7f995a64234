"""What a broker says to CONNECT, what it retains of verifiers, and whether it keeps to the access rules."""

from __future__ import annotations

import secrets
import time
from typing import TYPE_CHECKING, Final, NamedTuple

from paho.mqtt.enums import MQTTErrorCode

from broker.paho_client import connect_options, make_paho, send_at_once
from broker.reasons import refused, unreachable
from schemas.codec import decode_state
from schemas.errors import WireError
from schemas.messages import VerifierState
from schemas.topics import Family, Topics
from sled.checks.check import Check, failed, ok, skipped, unknown, warning

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from paho.mqtt.client import MQTTMessage
    from paho.mqtt.reasoncodes import ReasonCode

    from broker.address import BrokerAddress
    from broker.tls import Tls

CONNECT: Final = "MQTT"
ACCESS: Final = "access rules"
VERIFIERS: Final = "verifiers"

_PATIENCE: Final = 8.0
"""Seconds for each answer of the broker."""
_QUIET: Final = 1.0
"""Seconds without a further announcement after which all retained ones have come; and the least time to wait for what
must not come."""
_MOST: Final = 10_000
"""Messages that are looked at."""
_NOBODY: Final = "doctor-probe"
"""A name of nobody; the access rules say what may be done in the name of others."""


class Visit(NamedTuple):
    """Under which name a connection is made.

    Attributes:
        role: `agent`, `verifier` or `app`.
        name: of the identity; None where the broker tells nobody apart.
        root: of all topics.
    """

    role: str
    name: str | None
    root: str


class Heard(NamedTuple):
    """What a connection has shown.

    Attributes:
        checks: of the connection, the access rules and the announcements.
        states: of the verifiers that are announced.
    """

    checks: tuple[Check, ...]
    states: dict[str, VerifierState]


def not_connected(why: str, do: str = "") -> Heard:
    """Return the findings where no connection is made."""
    return Heard(tuple(skipped(name, why, do) for name in (CONNECT, ACCESS, VERIFIERS)), {})


def connect(address: BrokerAddress, tls: Tls | None, visit: Visit) -> Heard:
    """Connect and look around.

    Where the broker knows this machine by name, its MQTT session is the running role's: of a device it is kept, nothing
    that waits in it is acknowledged, and what was subscribed to here is unsubscribed from in the end.
    """
    look = _Look(address, tls, visit)
    try:
        refusal = look.open()
        if refusal is not None:
            rest = (skipped(name, "there is no connection") for name in (ACCESS, VERIFIERS))
            return Heard((refusal, *rest), {})
        accepted = ok(CONNECT, f"CONNECT was accepted{f', as {visit.name}' if visit.name else ''}")
        states, announced = look.announcements()
        ruled = look.access()
    finally:
        look.close()
    return Heard((accepted, ruled, announced), states)


class _Look:
    """One connection, without threads; it acknowledges nothing, and when it is lost it stays so."""

    def __init__(self, address: BrokerAddress, tls: Tls | None, visit: Visit) -> None:
        self._address, self._visit = address, visit
        self._topics = Topics(visit.root)
        self._announcements = self._topics.verifier_state("+")
        self._answer: ReasonCode | None = None
        self._granted: dict[int | None, bool] = {}
        self._messages: list[tuple[str, bytes]] = []
        self._subscribed: list[str] = []
        # Of a device the session keeps what waits for its agent; others have sessions that end with their connection.
        self._clean = visit.name is None or visit.role != "agent"
        self._client = make_paho(address, visit.name or "", clean=self._clean, will=None, tls=tls, max_outgoing=10)
        self._client.on_socket_open = send_at_once
        self._client.on_connect = self._answered
        self._client.on_subscribe = self._subscription
        self._client.on_message = self._received

    def open(self) -> Check | None:
        """Connect; returns what is wrong if that does not work."""
        options = connect_options(clean=self._clean) if self._address.mqtt5 else {}
        try:
            self._client.connect(self._address.host, self._address.port, **options)
        except OSError as error:
            return failed(CONNECT, unreachable(self._address, error), "see the broker's log")
        self._pump(lambda: self._answer is not None, _PATIENCE)
        if self._answer is None:
            do = "see the broker's log; a certificate that it does not accept may look like this too"
            return failed(CONNECT, f"the broker at {self._address} did not answer CONNECT", do)
        if self._answer.is_failure:
            who = f"{self._visit.name!r}" if self._visit.name else "a client without a name"
            do = f"see that the broker knows {who}: its access file, `sled device list` at the operator's"
            return failed(CONNECT, refused(self._address, str(self._answer)), do)
        return None

    def announcements(self) -> tuple[dict[str, VerifierState], Check]:
        """Wait until the retained announcements have come, and judge them."""
        if not self._subscribe(self._announcements):
            do = "check this identity's role, and the broker's access file (`docs/access.md`)"
            return {}, failed(VERIFIERS, "the broker does not let this identity read their announcements", do)
        seen = -1
        while seen != len(self._messages):  # until nothing more has come for a while
            seen = len(self._messages)
            self._pump(lambda: False, _QUIET)
        here = {
            topic: payload for topic, payload in self._messages if topic.startswith(f"{self._topics.root}/verifier/")
        }
        return judge_announcements(here, self._topics.root)

    def access(self) -> Check:
        """Publish in somebody else's name, and see that nobody gets it."""
        if self._visit.name is None:
            return skipped(ACCESS, "without an identity or a user name a broker tells nobody apart")
        topic, topic_filter = forbidden(self._visit.role, self._visit.name, self._topics)
        if not self._subscribe(topic_filter):
            do = "check this identity's role, and the broker's access file (`docs/access.md`)"
            return failed(ACCESS, f"{self._visit.name} may not read {topic_filter}, and should", do)
        probe, begun = (topic, secrets.token_bytes(8)), time.monotonic()
        sent = self._client.publish(*probe, qos=1)
        self._pump(sent.is_published, _PATIENCE)
        taken = time.monotonic() - begun
        # An answer, or a connection that was closed: both say that the broker has dealt with it.
        dealt_with = sent.is_published() or not self._client.is_connected()
        self._pump(lambda: probe in self._messages, max(_QUIET, 3 * taken))
        if probe in self._messages:
            return failed(
                ACCESS,
                f"{self._visit.name} has published to {topic}, which is not its to write, and it was delivered",
                "run the broker with the access rules (`sled broker --access …`): now any client can do anything",
            )
        if not dealt_with:
            return unknown(ACCESS, f"the broker did not say what became of a message to {topic}", "try again")
        return ok(ACCESS, f"what {self._visit.name} must not publish ({topic}) was not delivered")

    def close(self) -> None:
        """Leave the session as it was found."""
        for topic_filter in self._subscribed:
            self._client.unsubscribe(topic_filter)
        self._client.disconnect()
        self._pump(lambda: self._client.socket() is None, _QUIET)
        # paho closes its sockets in __del__; without this cycle that happens now.
        self._client.on_connect = self._client.on_subscribe = self._client.on_message = None

    def _subscribe(self, topic_filter: str) -> bool:
        """Subscribe; False if the broker refuses it, or says nothing."""
        _, number = self._client.subscribe(topic_filter, 1)
        self._subscribed.append(topic_filter)
        self._pump(lambda: number in self._granted, _PATIENCE)
        return self._granted.get(number, False)

    def _pump(self, done: Callable[[], bool], seconds: float) -> None:
        """Let paho work until something is done, the time is over, or the connection lost."""
        end = time.monotonic() + seconds
        while not done() and (left := end - time.monotonic()) > 0:
            if self._client.loop(min(left, 0.1)) != MQTTErrorCode.MQTT_ERR_SUCCESS:
                return

    def _answered(self, _client: object, _userdata: object, _flags: object, reason: ReasonCode, _: object) -> None:
        self._answer = reason

    def _subscription(
        self, _client: object, _userdata: object, number: int, reasons: list[ReasonCode], _: object
    ) -> None:
        self._granted[number] = not any(reason.is_failure for reason in reasons)

    def _received(self, _client: object, _userdata: object, message: MQTTMessage) -> None:
        if len(self._messages) < _MOST:
            self._messages.append((message.topic, bytes(message.payload)))


def forbidden(role: str, name: str, topics: Topics) -> tuple[str, str]:
    """Return a topic that a role may not publish to, and a filter that it may read and that matches it.

    By the table of `provisioning.access`; an empty or senseless message there harms nobody.
    """
    match role:
        case "agent":  # its own verdicts: it reads them, and verifiers alone write them
            return topics.verdict(name), topics.verdict(name)
        case "verifier":  # drafts for it: it reads them, and devices alone write them
            return topics.draft(_NOBODY, name), topics.draft("+", name)
        case _:  # answers: apps read them, and devices alone write them
            return topics.answer(_NOBODY, _NOBODY), topics.answer("+", "+")


def judge_announcements(payloads: dict[str, bytes], root: str) -> tuple[dict[str, VerifierState], Check]:
    """Read what verifiers announce of themselves, and say who is there."""
    states, strange = dict[str, VerifierState](), list[str]()
    for topic, payload in payloads.items():
        try:
            parsed = Topics(root).parse(topic)
            if parsed.family is Family.VERIFIER_STATE and payload:
                states[parsed.verifier] = decode_state(payload, VerifierState)
        except WireError as error:
            strange.append(f"{topic[:100]}: {error}")
    if strange:
        do = "somebody who may not publishes there, or a release does not fit: see `sled sweep --malformed`"
        return states, warning(VERIFIERS, f"an announcement cannot be read ({strange[0][:300]})", do)
    here = list(_described(states))
    if here:
        return states, ok(VERIFIERS, "; ".join(here))
    gone = f"; {', '.join(sorted(states))} went offline" if states else ""
    return states, warning(
        VERIFIERS,
        f"none has announced itself below {root!r}{gone}",
        "start one (`sled verifier`), with the same --root",
    )


def _described(states: dict[str, VerifierState]) -> Iterator[str]:
    for name, state in sorted(states.items()):
        if state.status == "online":
            draining = ", draining" if state.draining else ""
            yield f"{name}: {state.target or 'a target'}, {state.load} of {state.capacity} sessions{draining}"
