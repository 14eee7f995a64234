"""`sled ca serve` without a broker: what it does with requests that come, and with a folder that fails it."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Self

import pytest

from broker.address import BrokerAddress
from broker.message import Message
from provisioning import fleet, serve
from provisioning.authority import Subject
from provisioning.authority_folder import AuthorityFolder
from provisioning.enrolment import Asking
from provisioning.identity_folder import IdentityFolder
from provisioning.role import Role
from provisioning.serve import EnrolmentServer, ServeOptions
from schemas.enrolment import CertificateIssued, EnrolmentRefused, decode_answer
from tests.provisioning.bench import DAY, request_of
from tests.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from broker.tls import Tls
    from schemas.enrolment import EnrolmentAnswer

ADDRESS = BrokerAddress("127.0.0.1", 8883, tls=True)


class Line:
    """Stands in for a bridge: hands over what a test says, and keeps what is said back."""

    def __init__(self, _address: object, _client_id: str, *, tls: Tls, **_options: Any) -> None:
        assert tls.certificate is not None
        self.identity = tls.certificate.read_bytes()
        self.address = ADDRESS
        self.said: list[Message] = []
        self.phase = "new"
        self._handler: Callable[[Message], None] | None = None

    def subscribe(self, _filter: str, handler: Callable[[Message], None]) -> None:
        """Take the only handler there is."""
        self._handler = handler

    def start(self) -> None:
        """Be up."""
        assert self.phase == "new"
        self.phase = "up"

    def wait_up(self, _timeout: float) -> None:
        """Be up already."""
        assert self.phase == "up"

    def stop(self) -> None:
        """Be spent."""
        self.phase = "stopped"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def publish(self, topic: str, payload: bytes, **_options: Any) -> None:
        """Keep what is said."""
        assert self.phase == "up"
        self.said.append(Message(topic, payload))

    def ask(self, identity: str, payload: bytes) -> None:
        """Have a request come."""
        assert self._handler is not None
        self._handler(Message(f"sled/v1/enroll/{identity}/request", payload))

    def answers(self, identity: str) -> list[EnrolmentAnswer]:
        """What was said to somebody so far."""
        return [decode_answer(one.payload) for one in self.said if one.topic == f"sled/v1/enroll/{identity}/answer"]


class World:
    """An authority, an operator, some devices, and the lines that the server has opened."""

    def __init__(self, path: Path) -> None:
        self.path, self.now = path, datetime.now(UTC)
        self.ca = AuthorityFolder(path / "ca")
        self.ca.create("fleet", now=self.now - 100 * DAY)
        self.authority = self.ca.authority()
        self.ops = self.identity("ops", Role.OPERATOR)
        self.lines: list[Line] = []

    def identity(self, name: str, role: Role = Role.DEVICE, *, days_ago: int = 0) -> IdentityFolder:
        """Make an identity beside the authority, as it was made some days ago; it was good for 90 then."""
        folder = IdentityFolder(self.path / name)
        now = self.now - days_ago * DAY
        fleet.give_identity(self.ca, self.authority, Subject(name, role), folder, now=now)
        return folder

    def options(self, own: IdentityFolder, *, dry_run: bool = False) -> ServeOptions:
        """What `sled ca serve` is told with an identity."""
        return ServeOptions(ADDRESS, own.require_identity().name, own.tls(), dry_run=dry_run, identity=own)

    def request(self, name: str, number: str = "q1") -> bytes:
        """A request to renew; the machine is made with the first."""
        identity = self.identity(name).require_identity()
        return request_of(name, Asking(identity.certificate, identity.key), number=number)

    @contextmanager
    def serving(self, options: ServeOptions | None = None) -> Iterator[Line]:
        """Let the server run, which must be alive at the end; the first line that it opens."""
        server = EnrolmentServer(self.ca, self.authority, options or ServeOptions(ADDRESS, "ops", self.ops.tls()))
        thread = threading.Thread(target=server.run)
        thread.start()
        try:
            wait_for(lambda: self.lines and self.lines[0].phase == "up", within=20)
            yield self.lines[0]
            assert thread.is_alive()
        finally:
            server.stop()
            thread.join(30)
        assert not thread.is_alive()


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """Nothing is served yet."""
    made = World(tmp_path)

    def opened(*arguments: Any, **options: Any) -> Line:
        made.lines.append(Line(*arguments, **options))
        return made.lines[-1]

    monkeypatch.setattr(serve, "Bridge", opened)
    return made


@pytest.mark.parametrize("damaged", [b"{", None], ids=["damaged", "missing"])
def test_a_registry_that_fails_is_no_end(world: World, damaged: bytes | None) -> None:
    request, book = world.request("pi"), world.ca.registry_file.read_bytes()
    with world.serving() as line:
        if damaged is None:
            world.ca.registry_file.unlink()
        else:
            world.ca.registry_file.write_bytes(damaged)
        line.ask("pi", request)
        wait_for(lambda: line.answers("pi"), within=20)
        (refused,) = line.answers("pi")
        assert isinstance(refused, EnrolmentRefused)
        assert refused.code == "failed"
        world.ca.registry_file.write_bytes(book)
        world.identity("pi-2")
        line.ask("pi-2", world.request("pi-2"))
        wait_for(lambda: line.answers("pi-2"), within=20)
    assert isinstance(line.answers("pi-2")[0], CertificateIssued)


def test_one_that_asks_and_asks_keeps_nobody_waiting(world: World) -> None:
    """It is answered once in a while; the others' requests find room, and an answer that does not wait for its own."""
    other = world.request("pi-2")
    with world.serving() as line:
        for _ in range(2_000):
            line.ask("pi", b"rubbish")
        line.ask("pi-2", other)
        wait_for(lambda: line.answers("pi-2"), within=20)
        assert isinstance(line.answers("pi-2")[0], CertificateIssued)
        assert len(line.answers("pi")) <= 3
        line.ask("pi-2", other)
        assert len(line.answers("pi-2")) == 1

        def answered_again() -> bool:
            line.ask("pi-2", other)
            return len(line.answers("pi-2")) == 2

        wait_for(answered_again, within=20, every=0.1)
    first, again = line.answers("pi-2")
    assert first == again, "as one that asks again, since it has not heard the answer"


# Its own certificate


@pytest.fixture
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    """It looks at its certificate all the time."""
    monkeypatch.setattr(serve, "_LOOK_EVERY", 0.05)


@pytest.mark.usefixtures("_often")
def test_it_renews_its_own_and_connects_with_that(world: World) -> None:
    own = world.identity("old", Role.OPERATOR, days_ago=61)
    before = own.identity_file.read_bytes()
    with world.serving(world.options(own)) as line:
        wait_for(lambda: len(world.lines) == 2 and world.lines[1].phase == "up", within=20)
        assert line.phase == "stopped", "a broker lets a name in once"
        world.lines[1].ask("pi", world.request("pi"))
        wait_for(lambda: world.lines[1].answers("pi"), within=20)
    assert line.identity == before
    assert world.lines[1].identity == own.identity_file.read_bytes() != before
    assert own.require_identity().certificate.not_valid_after_utc > world.now + 89 * DAY
    assert len(world.lines) == 2, "and once is enough"


@pytest.mark.usefixtures("_often")
def test_it_connects_with_what_somebody_else_has_renewed(world: World) -> None:
    with world.serving(world.options(world.ops)):
        time.sleep(0.3)
        assert len(world.lines) == 1
        fleet.renew_identity(world.ca, world.authority, world.ops, now=world.now)
        wait_for(lambda: len(world.lines) == 2 and world.lines[1].phase == "up", within=20)
    assert world.lines[1].identity == world.ops.identity_file.read_bytes()


@pytest.mark.usefixtures("_often")
def test_what_keeps_it_from_renewing_does_not_end_it(world: World, caplog: pytest.LogCaptureFixture) -> None:
    own = world.identity("old", Role.OPERATOR, days_ago=61)
    options, before = world.options(own), own.identity_file.read_bytes()
    fleet.revoke(world.ca, world.authority, "old", now=world.now)
    with world.serving(options) as line:
        wait_for(lambda: "own certificate is not renewed" in caplog.text, within=20)
        own.identity_file.write_bytes(b"half")
        wait_for(lambda: "identity cannot be used" in caplog.text, within=20)
        line.ask("pi", world.request("pi"))
        wait_for(lambda: line.answers("pi"), within=20)
    assert (len(world.lines), line.identity) == (1, before)


@pytest.mark.parametrize(
    ("role", "days_ago", "dry_run"),
    [(Role.OPERATOR, 59, False), (Role.OPERATOR, 61, True), (Role.DEVICE, 61, False)],
    ids=["not-due", "dry-run", "of-another-role"],
)
def test_what_it_does_not_renew(world: World, role: Role, days_ago: int, dry_run: bool) -> None:
    own = world.identity("old", role, days_ago=days_ago)
    before = own.identity_file.read_bytes()
    serve.renew_own(world.ca, world.authority, own, lifetime=90 * DAY, dry_run=dry_run)
    assert own.identity_file.read_bytes() == before
