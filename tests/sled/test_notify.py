"""What systemd is told: by a real agent in a process of its own, at a socket like systemd's."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Self

import pytest

from broker.access_file import encode_access
from broker.address import BrokerAddress
from broker.client import Bridge
from broker.run import start_broker
from edge_agent.tokenizer import ChatTokenizer
from schemas import codec
from schemas.digest import tokenizer_digest
from schemas.messages import VERSION, VerifierState
from schemas.topics import Topics
from sled.notify import Notifier, Progress, attended
from tests.broker.brokers import ALL, allow
from tests.conftest import require
from tests.models.tiny import save_tokenizer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from broker.run import RunningBroker

TOPICS = Topics()
PROGRAM = """
import sys, time
from pathlib import Path
from edge_agent.drafters.lookup import PromptLookup
from sled.cli import main
honest, hangs = PromptLookup.propose, Path(sys.argv.pop(1))
def propose(*arguments, **options):
    while hangs.exists():
        time.sleep(0.01)
    return honest(*arguments, **options)
PromptLookup.propose = propose
main()
"""
"""`sled agent`, whose drafter hangs for as long as a file is there."""


class Manager:
    """A service manager's socket."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind("\0" + address[1:] if address.startswith("@") else address)
        self._socket.settimeout(60)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def next(self) -> list[str]:
        """Return the lines of the next message."""
        return self._socket.recv(65_536).decode().split("\n")

    def until(self, wanted: Callable[[list[str]], bool]) -> list[list[str]]:
        """Return the messages up to one that is wanted, with it."""
        heard = [self.next()]
        while not wanted(heard[-1]):
            heard.append(self.next())
        return heard


def alive(lines: list[str]) -> bool:
    return "WATCHDOG=1" in lines


def silent(lines: list[str]) -> bool:
    return "STATUS=mosquitto says nothing to a newcomer" in lines


def hanging(lines: list[str]) -> bool:
    return "STATUS=no progress: drafting" in lines


@pytest.fixture
def place() -> Iterator[RunningBroker]:
    running = start_broker("auto", port=0)
    yield running
    running.stop()


@contextmanager
def running_agent(
    place: RunningBroker, tokenizer: Path, manager: Manager, hangs: Path
) -> Iterator[subprocess.Popen[bytes]]:
    where = f"{place.host}:{place.port}"
    files = ["--tokenizer", str(tokenizer), "--spool", str(tokenizer.parent / "spool.db")]
    command = ["agent", "pi", "--broker", where, "--drafter", "lookup", "--policy", "fixed:2", *files]
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(hangs), *command],
        env={**os.environ, "NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "1000000"},
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait(10)


def test_an_agent_is_alive_while_it_drafts(place: RunningBroker, tmp_path: Path) -> None:
    tokenizer, hangs = tmp_path / "tokenizer", tmp_path / "hangs"
    tokenizer.mkdir()
    save_tokenizer(tokenizer)
    verifier = VerifierState(
        VERSION,
        "online",
        "boot",
        "tiny",
        tokenizer_digest(ChatTokenizer.load(tokenizer).canonical_json),
        vocab_size=320,
        context_length=600,
        end_tokens=(256,),
        capacity=1,
    )
    with (
        Manager(str(tmp_path / "notify")) as manager,
        Bridge(BrokerAddress(place.host, place.port)) as bridge,
        running_agent(place, tokenizer, manager, hangs) as process,
    ):
        bridge.publish(TOPICS.verifier_state("v0"), codec.encode_json(verifier), retain=True)
        assert "READY=1" in manager.next(), "the first word"
        for _ in range(2):
            manager.until(alive)
        hangs.touch()
        bridge.publish(TOPICS.ask("pi"), b"abcabcabc")
        manager.until(hanging)
        for _ in range(5):  # longer than systemd would wait
            assert not any(alive(lines) for lines in manager.until(hanging)), "nothing else gets on in its place"
        hangs.unlink()
        manager.until(alive)
        process.send_signal(signal.SIGTERM)
        manager.until(lambda lines: "STOPPING=1" in lines)
        assert process.wait(60) == 0


def test_what_is_stuck() -> None:
    progress = Progress()
    assert progress.stuck({"loop": 1, "work": None}) == ()
    assert progress.stuck({"loop": 2, "work": 7}) == (), "it has only now begun"
    assert progress.stuck({"loop": 3, "work": 7}) == ("work",)
    assert progress.stuck({"loop": 3, "work": 8}) == (), "the loop has got on since the role was last well"
    assert progress.stuck({"loop": 3, "work": None}) == ("loop",)
    assert progress.stuck({"loop": 4, "work": 8}) == ()
    assert progress.stuck({"loop": 5, "work": 8}) == ("work",)


def test_what_begins_beside_something_stuck_is_watched_too() -> None:
    progress = Progress()
    progress.stuck({"a": 1, "b": None})
    assert progress.stuck({"a": 1, "b": 5}) == ("a",)
    assert progress.stuck({"a": 1, "b": 5}) == ("a", "b")


def test_a_role_that_shows_no_progress_is_ready_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with Manager(f"@sled-test-{os.getpid()}") as manager:
        monkeypatch.setenv("NOTIFY_SOCKET", manager.address)
        with attended(object(), Notifier.from_environment()):
            assert manager.next() == ["READY=1"]


@pytest.mark.parametrize(
    ("environment", "watchdog"),
    [
        ({"WATCHDOG_USEC": "3000000"}, 3.0),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": str(os.getpid())}, 3.0),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({}, None),
    ],
)
def test_who_is_watched(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], watchdog: float | None) -> None:
    for name in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    notifier = Notifier.from_environment()
    assert "WATCHDOG_USEC" not in os.environ, "no child is watched in our place"
    assert notifier.watchdog == watchdog
    assert not notifier.wanted
    notifier.tell("READY=1")  # to nobody


def test_a_manager_that_is_gone_does_no_harm(tmp_path: Path) -> None:
    Notifier(str(tmp_path / "nobody")).stopping(5)


def test_a_broker_says_where_it_listens(tmp_path: Path) -> None:
    with Manager(str(tmp_path / "notify")) as manager:
        command = [sys.executable, "-m", "sled", "broker", "--port", "0"]
        process = subprocess.Popen(command, env={**os.environ, "NOTIFY_SOCKET": manager.address})
        try:
            ready, status = manager.next()
            assert ready == "READY=1"
            assert " listens at 127.0.0.1:" in status
            process.send_signal(signal.SIGTERM)
            assert "STOPPING=1" in manager.next()
            assert process.wait(60) == 0
        finally:
            process.kill()
            process.wait(10)


def test_a_broker_reads_its_files_until_it_can(tmp_path: Path) -> None:
    """What is in its way may go by itself, as a full disk does: a revocation must not be lost over it."""
    require("mosquitto")
    access, state = tmp_path / "access.json", tmp_path / "state"
    access.write_text(encode_access(allow(("#", ALL), names=("pi", "gpu"))))
    options = ["--engine", "mosquitto", "--port", "0", "--access", str(access), "--state", str(state)]
    with Manager(str(tmp_path / "notify")) as manager:
        process = subprocess.Popen(
            [sys.executable, "-m", "sled", "broker", *options], env={**os.environ, "NOTIFY_SOCKET": manager.address}
        )
        try:
            manager.until(lambda lines: "READY=1" in lines)
            (state / "mosquitto.acl.new").mkdir()
            (tmp_path / "new").write_text(encode_access(allow(("#", ALL), names=("gpu",))))
            (tmp_path / "new").replace(access)
            manager.until(lambda lines: "cannot read its files again" in lines[0])
            assert "user pi" in (state / "mosquitto.acl").read_text()
            (state / "mosquitto.acl.new").rmdir()
            manager.until(lambda lines: " listens at " in lines[0])
            assert "user pi" not in (state / "mosquitto.acl").read_text()
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0


def test_a_broker_is_alive_while_it_answers_newcomers(tmp_path: Path) -> None:
    require("mosquitto")
    with Manager(str(tmp_path / "notify")) as manager:
        process = subprocess.Popen(
            [sys.executable, "-m", "sled", "broker", "--port", "0", "--engine", "mosquitto"],
            env={**os.environ, "NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "2000000"},
        )
        mosquitto = 0
        try:
            manager.until(alive)
            mosquitto = int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text())
            os.kill(mosquitto, signal.SIGSTOP)
            manager.until(silent)
            for _ in range(4):  # as long as systemd would wait
                assert not any(alive(lines) for lines in manager.until(silent))
            os.kill(mosquitto, signal.SIGCONT)
            manager.until(alive)
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0
        finally:
            if mosquitto:
                with suppress(ProcessLookupError):
                    os.kill(mosquitto, signal.SIGCONT)
            process.kill()
            process.wait(10)
