"""All roles on one machine: a broker, a verifier and devices as processes, and an app that asks."""

from __future__ import annotations

import contextlib
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct

from broker.run import Engine as BrokerEngine
from edge_agent.drafters.spec import DrafterSpec, parse_drafter
from schemas.messages import Ask, DoneEvent, ErrorEvent, TokenEvent
from sled.client import Client, NoAnswerError
from sled.fleet import Device, Fleet, FleetOptions
from sled.report import Answered, Report, all_identical, summarise
from sled.stage import Scroll, SideBySide, Stage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console


class DemoError(Exception):
    """The demo cannot go on; the message says why."""


class DemoOptions(Struct, frozen=True):
    """What `sled demo` was told.

    Attributes:
        prompts: each is put to every device.
        target: folder of the target model.
        devices: what each drafts with.
        ask: how to answer; its prompt is replaced.
        check: have the target alone answer too.
        logs: folder for the logs of the processes.
    """

    prompts: tuple[str, ...]
    target: Path
    devices: tuple[Device, ...]
    ask: Ask
    dtype: str = "float32"
    broker: BrokerEngine = "auto"
    check: bool = False
    logs: Path | None = None


def run_demo(options: DemoOptions, console: Console) -> Report:
    """Start everything, put each prompt to each device, show the answers as they stream, and report.

    Args:
        options: what to run.
        console: where progress and answers go.

    Raises:
        FleetError: a role did not start.
        DemoError: a request failed.
        ProcessEndedError: a process ended; the message shows the end of its log.
    """
    fleet_options = FleetOptions(options.target, options.devices, options.dtype, options.broker, logs=options.logs)
    with Fleet(fleet_options) as fleet, contextlib.ExitStack() as stack:
        _introduce(options, fleet, console)
        clients = [stack.enter_context(Client(fleet.address)) for _ in options.devices]
        with console.status("loading the target and the drafters …"):
            for client in clients:
                fleet.wait(client)
        stage = _stage(options, console, stack)
        began = time.perf_counter()
        answered = _ask_all(options, clients, stage, fleet)
        seconds = time.perf_counter() - began
        batch = _mean_batch_size(fleet)
    if options.check:
        answered = _check(answered, options, console)
    return _report(options, answered, seconds, batch, fleet.engine)


def _introduce(options: DemoOptions, fleet: Fleet, console: Console) -> None:
    console.print(f"broker    {fleet.engine}, {fleet.address.host}:{fleet.address.port}", highlight=False)
    console.print(f"verifier  {options.target.name}, {options.dtype}", highlight=False)
    for device in options.devices:
        console.print(f"{device.name:9} {describe(device)}", highlight=False)


def describe(device: Device) -> str:
    """Return what a device drafts with, for people: models by the name of their folder."""
    return f"{', else '.join(_short(parse_drafter(drafter)) for drafter in device.drafters)}, {device.policy}"


def _short(drafter: DrafterSpec) -> str:
    lookup = ["lookup"] if drafter.lookup else []
    model = [f"{'cross ' * drafter.cross}{drafter.folder.name}"] if drafter.folder else []
    return " + ".join(lookup + model)


def _stage(options: DemoOptions, console: Console, stack: contextlib.ExitStack) -> Stage:
    if len(options.devices) == 1:
        return Scroll(console)
    titles = [(device.name, f"{device.name}: {describe(device)}") for device in options.devices]
    return stack.enter_context(SideBySide(console, titles))


def _ask_all(options: DemoOptions, clients: Sequence[Client], stage: Stage, fleet: Fleet) -> list[Answered]:
    """Let every device answer every prompt, all devices at once."""

    def work(device: Device, client: Client) -> list[Answered]:
        return [_ask(client, device.name, prompt, options.ask, stage, fleet) for prompt in options.prompts]

    with ThreadPoolExecutor(len(clients), thread_name_prefix="app") as pool:
        answers = pool.map(work, options.devices, clients)
        return [answer for of_device in answers for answer in of_device]


def _ask(client: Client, device: str, prompt: str, ask: Ask, stage: Stage, fleet: Fleet) -> Answered:
    stage.begin(device, prompt)
    tokens: list[int] = []
    try:
        for event in client.ask(device, msgspec.structs.replace(ask, prompt=prompt), timeout=60):
            match event:
                case TokenEvent():
                    tokens += event.tokens
                    stage.add(device, event.text)
                case DoneEvent():
                    stage.end(device)
                    return Answered(device, prompt, event.text, event.finish_reason, tuple(tokens), event.statistics)
                case ErrorEvent():
                    raise DemoError(f"the request failed ({event.code}): {event.message}")
                case _:
                    pass
    except NoAnswerError:
        fleet.check()
        raise
    raise DemoError("the answer ended without a last event")


def _mean_batch_size(fleet: Fleet) -> float | None:
    try:
        samples = fleet.verifier_metrics()
    except OSError:
        return None
    steps = samples.get("sled_verifier_step_sessions_count", 0.0)
    return samples["sled_verifier_step_sessions_sum"] / steps if steps else None


def _check(answered: Sequence[Answered], options: DemoOptions, console: Console) -> list[Answered]:
    """Have the target alone answer each prompt, and compare."""
    from sled.reference import Reference  # noqa: PLC0415 -- slow, and not on a device

    checked: list[Answered] = []
    with console.status("the target alone answers, to compare …"):
        reference = Reference(options.target, options.dtype)
        alone = {
            prompt: reference.write([{"role": "user", "content": prompt}], options.ask.max_tokens or 1)
            for prompt in options.prompts
        }
    for answer in answered:
        tokens, text = alone[answer.prompt]
        identical = tokens == answer.tokens and text == answer.text
        checked.append(msgspec.structs.replace(answer, identical=identical))
        if not identical:
            console.print(f"the target alone writes something else than {answer.device}:", style="red")
            console.print(text, markup=False, highlight=False)
    return checked


def _report(
    options: DemoOptions, answered: Sequence[Answered], seconds: float, batch: float | None, broker: str
) -> Report:
    devices = {
        device.name: summarise([answer for answer in answered if answer.device == device.name], describe(device))
        for device in options.devices
    }
    total = summarise(answered, describe(options.devices[0]) if len(options.devices) == 1 else "")
    return Report(
        identical=all_identical(answered),
        total=total,
        devices=devices,
        seconds=round(seconds, 3),
        tokens_per_second=round(total.tokens / seconds, 2),
        mean_batch_size=batch,
        broker=broker,
        target=options.target.name,
        dtype=options.dtype,
        answers=tuple(answered),
    )
