"""What processes took of the machine."""

from __future__ import annotations

import pytest

from benchmarks.kit.faults.logs import Sampled
from benchmarks.kit.faults.use import SHORTEST, WARM_UP, use_of

MIB = 2**20


def life(name: str, pid: int, seconds: float, *, mib: float = 100, per_hour: float = 0) -> list[Sampled]:
    """A process that is looked at every five seconds; what it loads at first is far more than it keeps."""
    samples = []
    for number in range(int(seconds / 5) + 1):
        at = 5.0 * number
        rss = 10 * mib if at < WARM_UP else mib + per_hour * at / 3600
        samples.append(Sampled(1000 + at, "agent", name, pid, int(rss * MIB), 7 + (at < WARM_UP)))
    return samples


def test_growth_is_that_after_the_warm_up() -> None:
    use = use_of([*life("a", 1, 1800, per_hour=60), *life("b", 2, 1800)])["agent"]
    assert use.lives == 2
    assert use.seconds == 1800 - WARM_UP
    assert use.mib_per_hour == pytest.approx(30, abs=0.1)
    assert use.mib_per_hour_most == pytest.approx(60, abs=0.1)
    assert use.mib_first == pytest.approx(101.7, abs=0.2)
    assert use.mib_last == pytest.approx(114.3, abs=0.2)
    assert (use.files_first, use.files_last, use.files_most) == (7, 7, 7)


def test_a_process_started_again_is_another_one() -> None:
    use = use_of([*life("a", 1, 900, mib=300), *life("a", 2, 900, mib=100)])["agent"]
    assert use.lives == 2
    assert use.mib_per_hour == pytest.approx(0, abs=0.01)
    assert use.mib_first == use.mib_last == 200


def test_short_lives_say_nothing() -> None:
    use = use_of(life("a", 1, WARM_UP + SHORTEST - 5))["agent"]
    assert (use.lives, use.mib_per_hour, use.files_most) == (0, 0, 0)
    assert use_of([]) == {}


def test_open_files_that_pile_up_are_seen() -> None:
    samples = [
        Sampled(sample.at, "broker", "broker", 1, sample.rss, number) for number, sample in enumerate(life("", 1, 900))
    ]
    use = use_of(samples)["broker"]
    assert use.files_last > use.files_first + 100
    assert use.files_most == 180
