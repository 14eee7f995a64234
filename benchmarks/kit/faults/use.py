"""What processes took of the machine: does memory or the number of open files grow while they live? Pure functions."""

from __future__ import annotations

from collections import defaultdict
from statistics import linear_regression, mean, median
from typing import TYPE_CHECKING, Final

import msgspec

from benchmarks.kit.faults.logs import Sampled

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

WARM_UP: Final = 120.0
"""Seconds of a life that are left out: what is loaded, compiled and filled once is no growth."""
SHORTEST: Final = 180.0
"""Seconds that a life must go on after that to say anything."""

_MIB: Final = 2**20


class Use(msgspec.Struct, frozen=True):
    """What the processes of one role took, by those lives that were long enough; all 0 if there was none.

    Attributes:
        lives: how many these were.
        seconds: median length of a life, warm-up left out.
        mib_first, mib_last: resident memory in MiB in the first and the last tenth of a life, mean over lives.
        mib_per_hour: growth of resident memory by least squares, median over lives.
        mib_per_hour_most: of the life in which it was greatest.
        files_first, files_last: open file descriptors likewise.
        files_most: at any time after the warm-up.
    """

    lives: int
    seconds: float
    mib_first: float
    mib_last: float
    mib_per_hour: float
    mib_per_hour_most: float
    files_first: float
    files_last: float
    files_most: int


class _Life(msgspec.Struct, frozen=True):
    """One process, after its warm-up."""

    samples: list[Sampled]

    @property
    def seconds(self) -> float:
        return self.samples[-1].at - self.samples[0].at

    @property
    def first(self) -> Sequence[Sampled]:
        return self.samples[: max(1, len(self.samples) // 10)]

    @property
    def last(self) -> Sequence[Sampled]:
        return self.samples[-max(1, len(self.samples) // 10) :]

    @property
    def mib_per_hour(self) -> float:
        times = [sample.at / 3600 for sample in self.samples]
        return linear_regression(times, [sample.rss / _MIB for sample in self.samples]).slope


def use_of(samples: Iterable[Sampled]) -> dict[str, Use]:
    """Return what was taken, by role.

    Args:
        samples: of all processes, in the order of time; a process is told from the next one by its id.
    """
    processes: defaultdict[tuple[str, str, int], list[Sampled]] = defaultdict(list)
    for sample in samples:
        processes[sample.role, sample.name, sample.pid].append(sample)
    lives: defaultdict[str, list[_Life]] = defaultdict(list)
    for (role, _, _), all_of_it in processes.items():
        lives[role] += _after_warm_up(all_of_it)
    return {role: _sum_up(lives[role]) for role in sorted({role for role, _, _ in processes})}


def _after_warm_up(samples: Sequence[Sampled]) -> list[_Life]:
    kept = [sample for sample in samples if sample.at - samples[0].at >= WARM_UP]
    return [_Life(kept)] if len(kept) > 1 and kept[-1].at - kept[0].at >= SHORTEST else []


def _sum_up(lives: Sequence[_Life]) -> Use:
    if not lives:
        return Use(0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0)
    growth = [life.mib_per_hour for life in lives]
    return Use(
        lives=len(lives),
        seconds=round(median(life.seconds for life in lives), 1),
        mib_first=round(mean(sample.rss for life in lives for sample in life.first) / _MIB, 1),
        mib_last=round(mean(sample.rss for life in lives for sample in life.last) / _MIB, 1),
        mib_per_hour=round(median(growth), 2),
        mib_per_hour_most=round(max(growth), 2),
        files_first=round(mean(sample.files for life in lives for sample in life.first), 1),
        files_last=round(mean(sample.files for life in lives for sample in life.last), 1),
        files_most=max(sample.files for life in lives for sample in life.samples),
    )
