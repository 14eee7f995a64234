"""What the doctor finds: on a fleet with a real Mosquitto that tells its clients apart, and in words and exit codes."""

from __future__ import annotations

import importlib.util
import io
import json
import shutil
import socket
from datetime import UTC, datetime, timedelta
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import typer
from typer.testing import CliRunner

from broker.access import Identity as Known
from broker.access_file import encode_access
from broker.address import BrokerAddress
from broker.client import Bridge
from broker.port import claim
from broker.run import start_broker
from broker.security import Security
from broker.tls import ServerTls, Tls
from edge_agent.spool import Spool
from edge_agent.tokenizer import ChatTokenizer
from models.default import SHIPPED
from provisioning import access, fleet, systemd
from provisioning.authority import Subject
from provisioning.authority_folder import AuthorityFolder
from provisioning.certificate import to_pem
from provisioning.identity_folder import Identity, IdentityFolder
from provisioning.role import Role
from schemas.codec import encode_json
from schemas.digest import tokenizer_digest
from schemas.messages import VerifierState
from schemas.topics import Topics
from sled import doctor
from sled.checks import certificate, clock, connection, disk, drafting, extras, listener, reach
from sled.checks.check import FAILED, NOT_SAID, WELL, Check, Examination, Outcome
from tests.conftest import require
from tests.provisioning.bench import DAY, NOW, machine, make_authority, of_no_version

if TYPE_CHECKING:
    from collections.abc import Iterator

    from broker.message import Message
    from broker.run import RunningBroker
    from schemas.messages import Sampling

TOPICS = Topics()
ONLINE = VerifierState(1, "online", "ab", "tiny", "9f86d081884c7d65", capacity=4, round_time=40_000)


class Fleet:
    """An authority, identities, and a Mosquitto with TLS and the access rules."""

    def __init__(self, path: Path) -> None:
        self.path, self.now = path, datetime.now(UTC)
        self.ca = AuthorityFolder(path / "ca")
        self.ca.create("fleet", now=self.now)
        self.authority = self.ca.authority()
        server = self.server = self.identity("broker", Role.BROKER, ("127.0.0.1",))
        self.pi = self.identity("pi", Role.DEVICE)
        self.desk = self.identity("desk", Role.VERIFIER)
        self.phone = self.identity("phone", Role.APP)
        self.lost = self.identity("lost", Role.DEVICE)
        fleet.revoke(self.ca, self.authority, "lost", now=self.now)
        known = [Known("pi", "device"), Known("desk", "verifier"), Known("phone", "app"), Known("lost", "device")]
        self.access = path / "access.json"
        self.access.write_text(encode_access(access.access(known)))
        self.crl = path / "ca" / "crl.pem"
        tls = ServerTls(server.identity_file, server.identity_file, server.authority_file, self.crl)
        self.broker: RunningBroker = start_broker("mosquitto", port=0, security=Security(tls, self.access))
        self.address = f"mqtts://127.0.0.1:{self.broker.port}"

    def identity(self, name: str, role: Role, hosts: tuple[str, ...] = ()) -> IdentityFolder:
        folder = IdentityFolder(self.path / name)
        fleet.give_identity(
            self.ca, self.authority, Subject(name, role, hosts), folder, now=self.now, broker="", root="sled/v1"
        )
        return folder

    def bridge(self, folder: IdentityFolder, **options: Any) -> Bridge:
        name = folder.require_identity().name
        return Bridge(BrokerAddress.parse(self.address), name, tls=folder.tls(), **options)

    def announce(self, state: VerifierState) -> None:
        with self.bridge(self.desk) as bridge:
            bridge.wait_up(10)
            bridge.publish(TOPICS.verifier_state("desk"), encode_json(state), retain=True)
            assert bridge.flush(10)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    require("mosquitto")
    made = Fleet(tmp_path_factory.mktemp("fleet"))
    made.announce(
        msgspec.structs.replace(ONLINE, tokenizer=tokenizer_digest(ChatTokenizer.load(SHIPPED).canonical_json))
    )
    yield made
    made.broker.stop()


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No machine's own state, and shorter waits for what does not come."""
    monkeypatch.setattr(connection, "_QUIET", 0.3)
    monkeypatch.setattr(reach, "_LATE_ALERT", 0.2)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(systemd, "AGENT_SPOOL", PurePosixPath(tmp_path / "var/spool.db"))
    for name in ("SLED_BROKER", "SLED_ROOT", "SLED_IDENTITY"):
        monkeypatch.delenv(name, raising=False)


def examine(*arguments: str, exit_code: int) -> dict[str, Check]:
    app = typer.Typer()
    doctor.mount(app)
    result = CliRunner().invoke(app, [*arguments, "--json"])
    assert result.exit_code == exit_code, (result.output, result.exception)
    found = msgspec.json.decode(result.stdout.splitlines()[-1], type=Examination)
    assert all(check.do for check in found.checks if check.outcome in (Outcome.FAILED, Outcome.WARNING))
    return {check.name.partition(" (")[0]: check for check in found.checks}


def outcomes(found: dict[str, Check]) -> dict[str, str]:
    return {name: check.outcome.value for name, check in found.items()}


# On a fleet -------------------------------------------------------------------------------------------------------


def test_a_device_that_is_well(world: Fleet, tmp_path: Path) -> None:
    spool = str(tmp_path / "pi.db")
    found = examine(
        "agent", "--identity", str(world.pi.path), "--broker", world.address, "--spool", spool, "--crl", str(world.crl),
        exit_code=WELL,
    )  # fmt: skip
    skipped = {name for name, outcome in outcomes(found).items() if outcome == "skipped"}
    assert skipped == {"configuration"}
    assert outcomes(found)["tokenizer"] == "ok", "that of the drafter that comes with sled, and the verifier's"
    assert "ms a token" in found["draft speed"].found
    assert {outcome for name, outcome in outcomes(found).items() if name not in skipped} <= {"ok", "warning"}
    assert outcomes(found)["access rules"] == outcomes(found)["TLS"] == outcomes(found)["verifiers"] == "ok"
    assert "desk: tiny" in found["verifiers"].found
    assert "TLS 1.3" in found["TLS"].found


def test_another_role(world: Fleet) -> None:
    assert (
        outcomes(examine("app", "--identity", str(world.phone.path), "--broker", world.address, exit_code=WELL))[
            "access rules"
        ]
        == "ok"
    )
    found = examine("verifier", "--identity", str(world.desk.path), "--broker", world.address, exit_code=WELL)
    assert outcomes(found)["MQTT"] == "skipped"
    assert "--take-over" in found["MQTT"].do
    taken = examine(
        "verifier", "--identity", str(world.desk.path), "--broker", world.address, "--take-over", exit_code=WELL
    )
    assert outcomes(taken)["access rules"] == "ok"


def test_the_identity_of_another_role(world: Fleet) -> None:
    found = examine("verifier", "--identity", str(world.pi.path), "--broker", world.address, exit_code=FAILED)
    assert "of a device" in found["role"].found


def broker_yaml(world: Fleet, folder: Path, **changes: object) -> list[str]:
    """The options by which a broker's machine is looked at; with a configuration that fits, but for the changes."""
    said = {
        "host": "0.0.0.0",  # noqa: S104 -- nobody listens there
        "port": world.broker.port,
        "engine": "mosquitto",
        "identity": world.server.path,
        "access": world.access,
        "crl": world.crl,
        **changes,
    }
    file = folder / "broker.yaml"
    file.write_text("".join(f"{key}: {value}\n" for key, value in said.items() if value is not None))
    return ["broker", "--config", str(file)]


def test_a_broker_that_is_well(world: Fleet, tmp_path: Path) -> None:
    found = examine(*broker_yaml(world, tmp_path), exit_code=WELL)
    assert set(outcomes(found).values()) <= {"ok", "warning"}
    assert "2 device" in found["access rules"].found
    assert "with the certificate in" in found["listener"].found


def test_a_broker_that_is_not_there(world: Fleet, tmp_path: Path) -> None:
    found = examine(*broker_yaml(world, tmp_path, port=claim("127.0.0.1", 0)), exit_code=FAILED)
    assert [name for name, outcome in outcomes(found).items() if outcome == "failed"] == ["listener"]
    assert "systemctl start" in found["listener"].do


def test_a_broker_that_shows_an_old_certificate(world: Fleet, tmp_path: Path) -> None:
    folder = shutil.copytree(world.server.path, tmp_path / "renewed")
    fleet.renew_identity(world.ca, world.authority, IdentityFolder(folder), now=world.now)
    found = examine(*broker_yaml(world, tmp_path, identity=folder), exit_code=WELL)
    assert outcomes(found)["listener"] == "warning"
    assert "restart" in found["listener"].do


@pytest.mark.parametrize(
    ("changes", "name", "words"),
    [
        ({"access": "/nowhere/access.json"}, "access rules", "cannot be read"),
        ({"access": None}, "access rules", "it will not listen at 0.0.0.0"),
        ({"crl": "/nowhere/crl.pem"}, "TLS files", "cannot be used"),
    ],
)
def test_a_broker_whose_files_are_missing(
    world: Fleet, tmp_path: Path, changes: dict[str, object], name: str, words: str
) -> None:
    found = examine(*broker_yaml(world, tmp_path, **changes), exit_code=FAILED)
    assert outcomes(found)[name] == "failed"
    assert words in found[name].found


def test_a_broker_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "find_mosquitto", lambda: None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    assert {listener.check_engine(wanted).outcome for wanted in ("auto", "mosquitto", "embedded")} == {Outcome.FAILED}


def test_a_broker_on_loopback(tmp_path: Path) -> None:
    broker = start_broker("embedded", port=0)
    try:
        config = tmp_path / "broker.yaml"
        config.write_text(f"engine: embedded\nport: {broker.port}\n")
        found = examine("broker", "--config", str(config), exit_code=WELL)
    finally:
        broker.stop()
    assert outcomes(found)["listener"] == "ok"
    assert {outcomes(found)[name] for name in ("TLS files", "access rules", "identity")} == {"skipped"}


def test_a_revoked_device(world: Fleet) -> None:
    found = examine(
        "agent",
        "--identity",
        str(world.lost.path),
        "--broker",
        world.address,
        "--crl",
        str(world.crl),
        exit_code=FAILED,
    )
    assert "was revoked" in found["TLS"].found
    assert "names this machine" in found["revocation list"].found
    assert outcomes(found)["MQTT"] == "skipped"


def test_without_the_certificate_that_the_broker_wants(world: Fleet) -> None:
    trusted = reach.reach(BrokerAddress.parse(world.address), Tls(world.pi.authority_file))
    assert not trusted.open
    assert "is missing" in trusted.checks[-1].found


def test_a_host_that_the_certificate_is_not_for(world: Fleet) -> None:
    found = examine(
        "app", "--identity", str(world.phone.path), "--broker", world.address.replace("127.0.0.1", "localhost"),
        exit_code=FAILED,
    )  # fmt: skip
    assert "for other hosts" in found["TLS"].found
    assert "--host localhost" in found["TLS"].do


def test_a_broker_of_another_fleet(world: Fleet, tmp_path: Path) -> None:
    other = tmp_path / "ca.pem"
    other.write_text(to_pem(make_authority(now=datetime.now(UTC)).certificate))
    reached = reach.reach(BrokerAddress.parse(world.address), Tls(other))
    assert "another authority" in reached.checks[-1].found


def test_what_waits_for_an_agent_is_left_to_it(world: Fleet) -> None:
    """The doctor has the agent's own session at such a broker; it neither empties it nor answers for the agent."""
    heard: list[Message] = []
    ask = TOPICS.ask("pi")
    with world.bridge(world.pi, clean=False) as agent:
        agent.subscribe(ask, heard.append, acknowledge="manual")
        agent.wait_up(10)
    with world.bridge(world.phone) as phone:
        phone.wait_up(10)
        phone.publish(ask, b"Are you there?")
        assert phone.flush(10)
    examine("agent", "--identity", str(world.pi.path), "--broker", world.address, exit_code=WELL)
    asked: list[bytes] = []
    with world.bridge(world.pi, clean=False) as agent:
        agent.subscribe(ask, lambda message: asked.append(message.payload))
        agent.wait_up(10)
        agent.publish(TOPICS.device_state("pi"), b"")
        assert agent.flush(10)
    assert asked == [b"Are you there?"]


def test_a_running_agent_is_not_disturbed(world: Fleet, tmp_path: Path) -> None:
    spool = Spool(tmp_path / "pi.db")
    try:
        found = examine(
            "agent", "--identity", str(world.pi.path), "--broker", world.address, "--spool", str(tmp_path / "pi.db"),
            exit_code=WELL,
        )  # fmt: skip
    finally:
        spool.close()
    assert "running agent" in found["spool"].found
    assert outcomes(found)["MQTT"] == "skipped"
    assert outcomes(found)["TLS"] == "ok"


def test_an_agent_that_runs_as_a_service_is_not_disturbed(
    world: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody has to say where `sled install` has its spool; nor does a spool of one's own hide it, or it that one."""
    service, own = tmp_path / "sled-agent/spool.db", tmp_path / "state/sled/pi.db"
    monkeypatch.setattr(systemd, "AGENT_SPOOL", PurePosixPath(service))
    arguments = ("agent", "--identity", str(world.pi.path), "--broker", world.address)
    for running, idle in ((service, own), (own, service)):
        Spool(idle).close()
        spool = Spool(running)
        try:
            found = examine(*arguments, exit_code=WELL)
        finally:
            spool.close()
        assert found["spool"].found == f"{running} is in use by a running agent"
        assert outcomes(found)["MQTT"] == "skipped"
    assert outcomes(examine(*arguments, exit_code=WELL))["MQTT"] == "ok"


def test_the_folder_of_a_service_that_is_closed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """To all but root: they learn nothing of it, and everything else."""

    def closed(path: Path) -> bool:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "exists", closed)
    examiner = doctor._Examiner(doctor.Settings("agent", tmp_path / "identity", device="pi"))
    assert examiner._spools() == [tmp_path / "state/sled/pi.db"]


def test_a_broker_without_rules() -> None:
    require("mosquitto")
    broker = start_broker("mosquitto", port=0)
    try:
        found = examine("agent", "--broker", f"mqtt://pi@127.0.0.1:{broker.port}", exit_code=FAILED)
        plain = examine("agent", "--broker", f"127.0.0.1:{broker.port}", exit_code=WELL)
        secured = examine("app", "--broker", f"mqtts://127.0.0.1:{broker.port}", exit_code=FAILED)
    finally:
        broker.stop()
    assert "it was delivered" in found["access rules"].found
    assert outcomes(plain)["access rules"] == "skipped"
    assert outcomes(plain)["verifiers"] == "warning"
    assert outcomes(secured)["TLS"] == "failed"


def test_nobody_there() -> None:
    with socket.socket() as taken:  # bound, so that nobody else takes the port; not listening
        taken.bind(("127.0.0.1", 0))
        found = examine("app", "--broker", f"127.0.0.1:{taken.getsockname()[1]}", exit_code=FAILED)
    assert "refused" in found["port"].found
    assert outcomes(found)["MQTT"] == outcomes(found)["verifiers"] == "skipped"


def test_a_name_that_nobody_has() -> None:
    reached = reach.reach(BrokerAddress.parse("broker.invalid"), None)
    assert [check.outcome.value for check in reached.checks] == ["failed", "skipped", "skipped"]


@pytest.mark.parametrize(
    ("numbers", "outcome"),
    [(["127.0.0.1", "::1"], "skipped"), (["::1", "192.0.2.7"], "warning"), (["fe80::1%eth0"], "warning")],
)
def test_without_tls(numbers: list[str], outcome: str) -> None:
    assert reach.judge_plain("TLS", numbers).outcome.value == outcome


@pytest.mark.parametrize(
    "option", [("--broker", "a b"), ("--root", "a/#"), ("--drafter", "magic:x"), ("--device", "../x")]
)
def test_a_typing_mistake(option: tuple[str, str]) -> None:
    app = typer.Typer()
    doctor.mount(app)
    assert CliRunner().invoke(app, ["agent", *option]).exit_code == 2


# In words ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seen", "code"),
    [
        ([Outcome.OK, Outcome.WARNING, Outcome.SKIPPED], WELL),
        ([Outcome.OK, Outcome.UNKNOWN], NOT_SAID),
        ([Outcome.UNKNOWN, Outcome.FAILED], FAILED),
        ([], WELL),
    ],
)
def test_exit_codes(seen: list[Outcome], code: int) -> None:
    checks = tuple(Check("it", outcome, "so") for outcome in seen)
    assert Examination("agent", checks).exit_code == code


def test_a_fault_in_a_check_hides_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> Check:
        raise RuntimeError("bracket [red]")

    monkeypatch.setattr(clock, "check_clock", broken)
    monkeypatch.setattr(reach, "reach", lambda address, tls: reach.Reached((), open=False))
    found = examine("app", exit_code=NOT_SAID)
    assert outcomes(found)["clock"] == "unknown"
    assert outcomes(found)["MQTT"] == "skipped"


def test_for_people() -> None:
    from rich.console import Console

    console = Console(record=True, width=100, file=io.StringIO())
    console.print(doctor.table(Examination("agent", (Check("TLS", Outcome.FAILED, "[bold]no", "do [this]"),))))
    text = console.export_text()
    assert "[bold]no" in text
    assert "→ do [this]" in text


def identity(begins: timedelta, lifetime: timedelta) -> Identity:
    authority = make_authority(now=NOW - 365 * DAY)
    made = machine(authority, now=NOW + begins, lifetime=lifetime)
    return Identity(made.certificate, made.key, authority.certificate)


@pytest.mark.parametrize(
    ("begins", "lifetime", "outcome", "words"),
    [
        (0 * DAY, 90 * DAY, "ok", "90 days are left"),
        (-61 * DAY, 90 * DAY, "warning", "less than a third"),
        (-91 * DAY, 90 * DAY, "failed", "valid from"),
        (9 * DAY, 90 * DAY, "failed", "valid from"),
    ],
)
def test_dates(begins: timedelta, lifetime: timedelta, outcome: str, words: str) -> None:
    found = certificate.check_certificate(identity(begins, lifetime), NOW)
    assert found.outcome.value == outcome
    assert words in found.found


def test_a_readable_key(tmp_path: Path) -> None:
    folder = IdentityFolder(tmp_path / "pi")
    folder.path.mkdir()
    folder.identity_file.write_bytes(b"x")
    folder.identity_file.chmod(0o644)
    held, found = certificate.check_identity(folder, asked_for=False)
    assert held is None
    assert found.outcome is Outcome.FAILED
    assert "chmod 600" in found.do


@pytest.mark.parametrize(("asked_for", "outcome"), [(True, "failed"), (False, "skipped")])
def test_no_identity(tmp_path: Path, asked_for: bool, outcome: str) -> None:
    _, found = certificate.check_identity(IdentityFolder(tmp_path / "none"), asked_for=asked_for)
    assert found.outcome.value == outcome


def test_the_list_of_another_authority(tmp_path: Path) -> None:
    folder = AuthorityFolder(tmp_path / "ca")
    folder.create("other", now=NOW)
    found = certificate.check_list(identity(0 * DAY, 90 * DAY), tmp_path / "ca" / "crl.pem", NOW)
    assert "not signed by the authority" in found.found


def test_a_list_of_no_version(tmp_path: Path) -> None:
    folder = AuthorityFolder(tmp_path / "ca")
    folder.create("fleet", now=NOW)
    folder.list_file.write_bytes(of_no_version(folder.list_file.read_bytes()))
    found = certificate.check_list(identity(0 * DAY, 90 * DAY), folder.list_file, NOW)
    assert "cannot be read" in found.found


def test_a_list_that_is_overdue(tmp_path: Path) -> None:
    folder = AuthorityFolder(tmp_path / "ca")
    folder.create("fleet", now=NOW)
    authority = folder.authority()
    made = machine(authority)
    held = Identity(made.certificate, made.key, authority.certificate)
    assert certificate.check_list(held, folder.path / "crl.pem", NOW).outcome is Outcome.OK
    assert "lets nobody in" in certificate.check_list(held, folder.path / "crl.pem", NOW + 400 * DAY).found


@pytest.mark.parametrize(
    ("begun", "synchronised", "outcome"),
    [
        ({"a": NOW - DAY}, True, "ok"),
        ({"a": NOW - DAY, "b": NOW + DAY}, True, "failed"),
        ({"a": NOW - DAY}, False, "warning"),
        ({}, None, "ok"),
    ],
)
def test_the_clock(begun: dict[str, datetime], synchronised: bool | None, outcome: str) -> None:
    assert clock.check_clock(NOW, begun, synchronised=synchronised).outcome.value == outcome


@pytest.mark.parametrize(
    ("free", "outcome"), [(disk.LITTLE, "ok"), (disk.LITTLE - 1, "warning"), (disk.TOO_LITTLE - 1, "failed")]
)
def test_disk(tmp_path: Path, free: int, outcome: str) -> None:
    assert disk.check_space(tmp_path / "not" / "yet", free).outcome.value == outcome
    assert disk.existing(tmp_path / "not" / "yet") == tmp_path


def test_a_spool_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "pi.db").write_bytes(b"no database, but long enough to be looked at" * 100)
    runs, found = disk.check_spool(tmp_path / "pi.db")
    assert not runs
    assert found.outcome is Outcome.FAILED


def test_no_spool_is_made(tmp_path: Path) -> None:
    assert disk.check_spool(tmp_path / "pi.db")[1].outcome is Outcome.OK
    assert list(tmp_path.iterdir()) == []


def test_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    assert extras.check_extras("agent").outcome is Outcome.OK
    monkeypatch.setitem(extras._EXTRAS, "agent", ("edge", ("numpy", "no_such_package")))
    found = extras.check_extras("agent")
    assert found.outcome is Outcome.FAILED
    assert found.found.endswith("missing: no_such_package")


@pytest.mark.parametrize(
    ("states", "outcome"),
    [
        ({"desk": ONLINE}, "ok"),
        ({"desk": ONLINE, "attic": msgspec.structs.replace(ONLINE, tokenizer="00")}, "ok"),
        ({"attic": msgspec.structs.replace(ONLINE, tokenizer="00")}, "failed"),
        ({"desk": msgspec.structs.replace(ONLINE, status="offline")}, "skipped"),
        ({}, "skipped"),
    ],
)
def test_tokenizers(states: dict[str, VerifierState], outcome: str) -> None:
    assert drafting.judge_tokenizer(ONLINE.tokenizer, states).outcome.value == outcome


@pytest.mark.parametrize(
    ("milliseconds", "states", "outcome"),
    [
        ([9.0, 10.0, 900.0], {"desk": ONLINE}, "ok"),
        ([40.0], {"desk": ONLINE}, "warning"),
        ([40.0], {}, "ok"),
        ([40.0], {"desk": msgspec.structs.replace(ONLINE, status="offline")}, "ok"),
        ([], {"desk": ONLINE}, "ok"),
    ],
)
def test_speed(milliseconds: list[float], states: dict[str, VerifierState], outcome: str) -> None:
    found = drafting.judge_speed("d", [value / 1e3 for value in milliseconds], states)
    assert found.outcome.value == outcome


def test_drafting_with_a_lookup(tmp_path: Path) -> None:
    from edge_agent.tokenizer import ChatTokenizer
    from tests.models.tiny import save_tokenizer

    save_tokenizer(tmp_path)
    digest = tokenizer_digest(ChatTokenizer.load(tmp_path).canonical_json)
    states = {"desk": msgspec.structs.replace(ONLINE, tokenizer=digest)}
    fits, speed = drafting.check_drafting(drafting.Drafting(("lookup",), tmp_path), states)
    assert (fits.outcome, speed.outcome) == (Outcome.OK, Outcome.OK)
    fits, speed = drafting.check_drafting(drafting.Drafting((f"onnx:{tmp_path / 'none'}",), tmp_path), states)
    assert (fits.outcome, speed.outcome) == (Outcome.OK, Outcome.FAILED)


def test_the_slowest_part_of_a_drafter_is_timed() -> None:
    from edge_agent.drafters.drafter import Proposal

    class Parts:
        name, vocab_size, context_length = "parts", 100, 1_000

        def propose(self, tokens: list[int], sampling: Sampling | None = None, position: int = 0) -> Proposal | None:
            return None if position > 9 else Proposal(position, 0.5, source="lookup" if position % 3 else "model")

    assert len(drafting.time_drafter(Parts(), 100)) in (3, 6)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("payload", "outcome", "words"),
    [
        (encode_json(ONLINE), "ok", "desk: tiny, 0 of 4"),
        (encode_json(VerifierState(1, "offline", "ab")), "warning", "desk went offline"),
        (b"{", "warning", "cannot be read"),
        (b"", "warning", "none has announced"),
    ],
)
def test_announcements(payload: bytes, outcome: str, words: str) -> None:
    _, found = connection.judge_announcements({TOPICS.verifier_state("desk"): payload}, "sled/v1")
    assert found.outcome.value == outcome
    assert words in found.found


@pytest.mark.parametrize("role", ["agent", "verifier", "app"])
def test_the_forbidden_topic_is_forbidden_and_would_be_heard(role: str) -> None:
    from broker.access import Action, Rulebook

    held = {"agent": "device"}.get(role, role)
    book = Rulebook(access.access([Known("me", held)]))
    topic, topic_filter = connection.forbidden(role, "me", TOPICS)
    assert not book.may("me", Action.PUBLISH, topic)
    assert book.may("me", Action.SUBSCRIBE, topic_filter)
    assert book.may("me", Action.RECEIVE, topic)


def test_a_configuration_file_stands_in_for_options(tmp_path: Path) -> None:
    require("mosquitto")
    broker = start_broker("mosquitto", port=0)
    file = tmp_path / "agent.yaml"
    file.write_text(f"device: pi\nbroker: 127.0.0.1:{broker.port}\nspool: {tmp_path / 'mine.db'}\n")
    try:
        found = examine("agent", "--config", str(file), exit_code=WELL)
    finally:
        broker.stop()
    assert outcomes(found)["configuration"] == outcomes(found)["MQTT"] == "ok"
    assert "mine.db" in found["spool"].found


def test_a_configuration_file_that_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reach, "reach", lambda address, tls: reach.Reached((), open=False))
    file = tmp_path / "agent.yaml"
    file.write_text("device: pi\nthread: 2\n")
    found = examine("agent", "--config", str(file), exit_code=FAILED)
    assert f"{file}:2: thread" in found["configuration"].do


def test_as_json_is_one_object() -> None:
    found = Examination("app", (Check("it", Outcome.OK, "so"),))
    assert json.loads(msgspec.json.encode(found)) == {
        "role": "app",
        "checks": [{"name": "it", "outcome": "ok", "found": "so"}],
    }


@pytest.mark.parametrize(("left", "outcome"), [(60, Outcome.OK), (29, Outcome.WARNING), (1, Outcome.WARNING)])
def test_a_broker_s_certificate_that_ends_is_told(left: int, outcome: Outcome) -> None:
    found = reach.judge_trusted("TLS", "TLSv1.3", NOW - (90 - left) * DAY, NOW + left * DAY, NOW)
    assert found.outcome is outcome
    assert found.found.startswith("TLS 1.3; the broker's certificate is trusted, for this host, until ")
    assert (f"in {left} days nobody gets in any more" in found.found) is (outcome is Outcome.WARNING)


def test_a_list_without_end_is_not_read_to_its_end() -> None:
    asking = machine(make_authority())
    held = Identity(asking.certificate, asking.key, make_authority().certificate)
    assert certificate.check_list(held, Path("/dev/zero"), NOW).outcome is Outcome.FAILED
