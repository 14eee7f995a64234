"""Every role as a process of its own, and one long answer to disturb."""

from __future__ import annotations

import os
import signal
import subprocess
from typing import TYPE_CHECKING

from broker.port import await_answer, claim
from schemas.messages import AnswerEvent, Ask, DoneEvent, TokenEvent

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from broker.run import Engine
    from sled.client import Client
    from sled.processes import Process, Processes

PROMPT = "Tell me everything."
TOKENS = 380


class Machine:
    """Every role as a process of its own, with the means to start each again."""

    def __init__(self, engine: Engine, target: Path, drafter: Path, folder: Path, processes: Processes) -> None:
        self.port = claim("127.0.0.1", 0)
        self._engine = engine
        self._target = target
        self._drafter = drafter
        self._folder = folder
        self._processes = processes
        self.broker = self.start_broker()
        self.verifier = self.start_verifier()
        self.agent = self.start_agent()

    def start_broker(self, *options: str) -> Process:
        process = self._processes.start(
            "broker", "broker", "--port", str(self.port), "--engine", self._engine, *options
        )
        await_answer("127.0.0.1", self.port, within=30, check=process.check)
        return process

    def start_verifier(self, name: str = "verifier", *options: str) -> Process:
        return self._processes.start(
            name, "verifier", name, "--broker", f"127.0.0.1:{self.port}", "--target", str(self._target),
            "--dtype", "float32", "--threads", "1", *options,
        )  # fmt: skip

    def start_agent(self) -> Process:
        return self._processes.start(
            "agent", "agent", "pi", "--broker", f"127.0.0.1:{self.port}", "--drafter", str(self._drafter),
            "--spool", str(self._folder / "spool.db"), "--policy", "fixed:2",
        )  # fmt: skip


def ask(client: Client) -> Iterator[AnswerEvent]:
    """Ask for a long answer."""
    assert client.wait_online(timeout=120)
    return client.ask("pi", Ask(prompt=PROMPT, max_tokens=TOKENS, ignore_end=True), timeout=60)


def begin(client: Client) -> tuple[Iterator[AnswerEvent], list[int]]:
    """Ask for a long answer and read its beginning."""
    events = ask(client)
    tokens: list[int] = []
    while len(tokens) < 20:
        event = next(events)
        assert isinstance(event, TokenEvent)
        tokens += event.tokens
    return events, tokens


def finish(events: Iterator[AnswerEvent], tokens: list[int], *, gaps: bool = False) -> DoneEvent:
    """Read the rest; each token comes once. With `gaps`, some may be missing from the stream."""
    for event in events:
        if isinstance(event, DoneEvent):
            return event
        assert isinstance(event, TokenEvent)
        assert event.index == len(tokens) or (gaps and event.index > len(tokens))
        tokens += [-1] * (event.index - len(tokens))
        tokens += event.tokens
    raise AssertionError("the answer ended without a last event")


def kill_tree(process: Process) -> None:
    """Kill a process and the broker it may have started."""
    listing = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(process.pid)], capture_output=True, text=True, check=False
    )
    children = listing.stdout.split()
    process.kill()
    for child in children:
        os.kill(int(child), signal.SIGKILL)
