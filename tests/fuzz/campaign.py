"""Tries readers with nearly valid input until a number or a time is reached, and says what came of it."""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import resource
import time
import traceback
from collections import Counter
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Final

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from msgspec import Struct

from tests.fuzz.mutate import mutated

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.fuzz.target import Target

SLOW: Final = 1.0
"""Seconds of the processor that one input may take: a busy machine is no fault."""
MOST_GROWTH: Final = 300 * 2**20
"""Bytes by which the process may grow, from when every reader has been tried, at its peak."""
_HUNG: Final = 60.0
"""Seconds after which a reader that does not come back ends the process, showing where it is."""
_EXAMPLES: Final = 25
"""Valid messages drawn between two looks at the clock …"""
_MUTATIONS: Final = 20
"""… and mutations tried of each."""


class Fault(Struct, frozen=True):
    """An input that should not have had this effect.

    Attributes:
        target: whose reader.
        kind: `crash` or `slow`.
        what: the error and where it was raised, or the seconds.
        payload: the input, hexadecimal, its beginning if it is long.
    """

    target: str
    kind: str
    what: str
    payload: str


class Result(Struct, frozen=True):
    """What a campaign came to.

    Attributes:
        inputs: that were tried.
        seconds: that it took.
        refused: of the inputs, those that were answered with a documented error.
        slowest: seconds of the slowest input.
        growth: bytes by which the process grew, at its peak.
        per_target: inputs by reader.
        faults: one for each place where something went wrong.
    """

    inputs: int
    seconds: float
    refused: int
    slowest: float
    growth: int
    per_target: dict[str, int]
    faults: tuple[Fault, ...]

    @property
    def is_well(self) -> bool:
        """Whether nothing went wrong."""
        return not self.faults and self.growth <= MOST_GROWTH


class Campaign:
    """One run.

    Args:
        targets: to try, by their weights.
        number: of the run: the same number tries the same input.
    """

    def __init__(self, targets: Sequence[Target], number: int = 0) -> None:
        self._targets = targets
        self._number = number
        self._random = Random(number)
        self._tried: Counter[str] = Counter()
        self._faults: dict[tuple[str, str], Fault] = {}
        self._refused = 0
        self._slowest = 0.0

    def run(self, inputs: int, seconds: float) -> Result:
        """Try until so many inputs were tried, or so many seconds are over."""
        began = time.monotonic()
        for target in self._targets:
            self._batch(target, target.samples, _MUTATIONS)
        gc.collect()
        forget_peak()
        before = peak()
        while self._tried.total() < inputs and time.monotonic() - began < seconds:
            faulthandler.dump_traceback_later(_HUNG, exit=True)
            self._round()
        faulthandler.cancel_dump_traceback_later()
        return Result(
            self._tried.total(),
            round(time.monotonic() - began, 1),
            self._refused,
            round(self._slowest, 3),
            peak() - before,
            dict(self._tried),
            tuple(self._faults.values()),
        )

    def _round(self) -> None:
        """Draw some valid messages for one target, and try mutations of them."""
        (target,) = self._random.choices(self._targets, [target.weight for target in self._targets])
        if target.legal is None:
            self._batch(target, target.samples, _MUTATIONS * 5)
            return

        @seed(self._random.getrandbits(32))
        @settings(
            max_examples=_EXAMPLES,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(st.lists(target.legal, min_size=1, max_size=2))
        def draw(drawn: list[bytes]) -> None:
            self._batch(target, (*target.samples, *drawn), _MUTATIONS)

        draw()

    def _batch(self, target: Target, valid: Sequence[bytes], count: int) -> None:
        for _ in range(count):
            payload = mutated(self._random.choice(valid), self._random.choice(valid), self._random)
            self._try(target, payload)

    def _try(self, target: Target, payload: bytes) -> None:
        self._tried[target.name] += 1
        began = time.process_time()
        try:
            target.read(payload)
        except target.may:
            self._refused += 1
        except Exception as error:  # noqa: BLE001 -- what should not be raised is what is looked for
            self._note(target, "crash", _place(error), payload)
        taken = time.process_time() - began
        self._slowest = max(self._slowest, taken)
        if taken > SLOW:
            self._note(target, "slow", f"{taken:.1f} s", payload)

    def _note(self, target: Target, kind: str, what: str, payload: bytes) -> None:
        key = (target.name, kind if kind == "slow" else what.partition(" at ")[2])
        self._faults.setdefault(key, Fault(target.name, kind, what, payload[:4_000].hex()))


def _place(error: Exception) -> str:
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {str(error)[:300]} at {Path(frame.filename).name}:{frame.lineno}"


def forget_peak() -> None:
    """Have the kernel count the peak anew from here (Linux, proc(5): clear_refs)."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak() -> int:
    """Return the most memory this process has held since then, in bytes."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024
