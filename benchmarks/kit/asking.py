"""Asking the devices of a fleet, and what they wrote."""

from __future__ import annotations

from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import TYPE_CHECKING

import msgspec

from benchmarks.kit.error import BenchError
from benchmarks.kit.timing import Stopwatch, Timing
from schemas.messages import Ask, DoneEvent, ErrorEvent, Sampling, Statistics, TokenEvent
from sled.client import Client, NoAnswerError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sled.fleet import Fleet

PATIENCE = 300.0
"""Seconds that a device may say nothing."""


class Written(msgspec.Struct, frozen=True):
    """What the system wrote for one prompt.

    Attributes:
        statistics: by the device's clock.
        timing: by ours.
    """

    prompt: str
    sampling: Sampling
    tokens: tuple[int, ...]
    text: str
    finish: str
    statistics: Statistics
    timing: Timing = Timing()


def write(
    fleet: Fleet, devices: Sequence[str], asks: Sequence[Ask], advance: Callable[[], object] = lambda: None
) -> list[Written]:
    """Have all devices answer at once, each the next ask that is left, and return the answers in order.

    Args:
        fleet: what the devices are part of.
        devices: their ids.
        asks: what is asked.
        advance: called after each answer, from several threads.

    Raises:
        BenchError: a request failed.
        NoAnswerError: a device said nothing.
        ProcessEndedError: a role ended.
    """
    left = deque(enumerate(asks))
    written: dict[int, Written] = {}

    def work(device: str, client: Client) -> None:
        while True:
            try:
                number, ask = left.popleft()
            except IndexError:
                return
            written[number] = write_one(fleet, client, device, ask)
            advance()

    with ExitStack() as stack, ThreadPoolExecutor(len(devices), thread_name_prefix="app") as pool:
        clients = [stack.enter_context(Client(fleet.address)) for _ in devices]
        for client in clients:
            fleet.wait(client)
        for done in [pool.submit(work, device, client) for device, client in zip(devices, clients, strict=True)]:
            done.result()
    return [written[number] for number in range(len(asks))]


def sampling_of(ask: Ask) -> Sampling:
    """Return how the tokens of an answer are chosen."""
    return Sampling(ask.temperature, ask.top_k, ask.top_p, ask.seed or 0)


def write_one(fleet: Fleet, client: Client, device: str, ask: Ask) -> Written:
    """Have one device answer one ask; the errors are those of `write`."""
    tokens: list[int] = []
    watch = Stopwatch()
    try:
        for event in client.ask(device, ask, timeout=PATIENCE):
            match event:
                case TokenEvent():
                    tokens += event.tokens
                    watch.saw(len(event.tokens))
                case DoneEvent():
                    timing = watch.stop()
                    return Written(
                        ask.prompt or "",
                        sampling_of(ask),
                        tuple(tokens),
                        event.text,
                        event.finish_reason,
                        event.statistics,
                        timing,
                    )
                case ErrorEvent():
                    raise BenchError(f"a request failed on {device} ({event.code}): {event.message}")
                case _:
                    pass
    except NoAnswerError:
        fleet.check()
        raise
    raise BenchError("an answer ended without a last event")
