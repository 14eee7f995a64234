"""All roles on one machine: a broker, a verifier and an agent as processes, and an app that asks."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct

from broker.address import BrokerAddress
from broker.port import answers, claim
from broker.run import Engine as BrokerEngine
from schemas.messages import Ask, DoneEvent, ErrorEvent, TokenEvent
from sled.client import Client, NoAnswerError
from sled.processes import Processes
from sled.report import Answered, Report, summarise

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console


START_WITHIN = 180.0
"""Seconds that loading models may take."""


class DemoError(Exception):
    """The demo cannot go on; the message says why."""


class DemoOptions(Struct, frozen=True):
    """What `sled demo` was told."""

    prompts: tuple[str, ...]
    target: Path
    drafter: Path
    max_tokens: int = 64
    dtype: str = "float32"
    policy: str = "fixed:4"
    broker: BrokerEngine = "auto"
    check: bool = False
    logs: Path | None = None


def run_demo(options: DemoOptions, console: Console) -> Report:
    """Start everything, ask each prompt, stream the answers, and report.

    Args:
        options: what to run.
        console: where progress and answers go.

    Raises:
        DemoError: a role did not start, or a request failed.
        ProcessEndedError: a process ended; the message shows the end of its log.
    """
    with tempfile.TemporaryDirectory(prefix="sled-demo-") as scratch:
        logs = options.logs or Path(scratch)
        try:
            logs.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DemoError(f"the folder for logs {logs} cannot be made ({error.strerror}): give another") from error
        with Processes(logs) as processes:
            address, engine = _start(options, processes, Path(scratch), console)
            with Client(address) as client:
                _await_roles(client, processes, console)
                answered = [_ask(client, prompt, options, processes, console) for prompt in options.prompts]
    if options.check:
        answered = _check(answered, options, console)
    return summarise(
        answered,
        broker=engine,
        target=options.target.name,
        drafter=options.drafter.name,
        dtype=options.dtype,
        policy=options.policy,
    )


def _start(options: DemoOptions, processes: Processes, scratch: Path, console: Console) -> tuple[BrokerAddress, str]:
    from broker.mosquitto import find_mosquitto  # noqa: PLC0415

    engine = options.broker
    if engine == "auto":
        engine = "mosquitto" if find_mosquitto() else "embedded"
    port = claim("127.0.0.1", 0)
    where = ("--broker", f"127.0.0.1:{port}")
    console.print(f"broker    {engine}, 127.0.0.1:{port}", highlight=False)
    console.print(f"verifier  {options.target.name}, {options.dtype}", highlight=False)
    console.print(f"agent     {options.drafter.name}, {options.policy}", highlight=False)
    processes.start("broker", "broker", "--port", str(port), "--engine", engine)
    give_up = time.monotonic() + 30
    while not answers("127.0.0.1", port):
        processes.check()
        if time.monotonic() > give_up:
            raise DemoError("the broker did not start within 30 s: see its log with --logs DIR")
        time.sleep(0.05)
    processes.start("verifier", "verifier", *where, "--target", str(options.target), "--dtype", options.dtype)
    spool = str(scratch / "spool.db")
    processes.start(
        "agent", "agent", "demo", *where, "--drafter", str(options.drafter), "--policy", options.policy,
        "--spool", spool,
    )  # fmt: skip
    return BrokerAddress("127.0.0.1", port), engine


def _await_roles(client: Client, processes: Processes, console: Console) -> None:
    give_up = time.monotonic() + START_WITHIN
    with console.status("loading the target and the drafter …"):
        while not client.wait_online(timeout=0.5):
            processes.check()
            if time.monotonic() > give_up:
                raise DemoError(
                    f"verifier and agent were not ready within {START_WITHIN:.0f} s: see their logs with --logs DIR"
                )


def _ask(client: Client, prompt: str, options: DemoOptions, processes: Processes, console: Console) -> Answered:
    console.print()
    console.print(f"> {prompt}", style="bold", markup=False, highlight=False)
    tokens: list[int] = []
    ask = Ask(prompt=prompt, max_tokens=options.max_tokens)
    try:
        for event in client.ask("demo", ask, timeout=60):
            match event:
                case TokenEvent():
                    tokens += event.tokens
                    console.out(event.text, end="", highlight=False)
                case DoneEvent():
                    console.print()
                    return Answered(prompt, event.text, event.finish_reason, tuple(tokens), event.statistics)
                case ErrorEvent():
                    raise DemoError(f"the request failed ({event.code}): {event.message}")
                case _:
                    pass
    except NoAnswerError:
        processes.check()
        raise
    raise DemoError("the answer ended without a last event")


def _check(answered: Sequence[Answered], options: DemoOptions, console: Console) -> list[Answered]:
    """Have the target alone answer each prompt, and compare."""
    from sled.reference import Reference  # noqa: PLC0415 -- slow, and not on a device

    checked: list[Answered] = []
    with console.status("the target alone answers, to compare …"):
        reference = Reference(options.target, options.dtype)
        for answer in answered:
            tokens, text = reference.write([{"role": "user", "content": answer.prompt}], options.max_tokens)
            identical = tokens == answer.tokens and text == answer.text
            checked.append(msgspec.structs.replace(answer, identical=identical))
            if not identical:
                console.print("the target alone writes something else:", style="red")
                console.print(text, markup=False, highlight=False)
    return checked
