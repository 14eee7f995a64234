"""What follows from a verifier's steps: hints, and refusals when it is behind."""

from __future__ import annotations

from verifier.backpressure import LATE, LEAST_PATIENCE
from verifier.ledger import Hint, Tally
from verifier.pace import Pace
from verifier.scheduler import Candidate

BASE, FED = 0.05, 0.002


def paced(bundles: int, *, steps: int = 60) -> Pace:
    """A pace that has seen steps of so many bundles of five tokens, and the odd prompt."""
    pace = Pace("v0")
    for number in range(steps):
        fed = bundles * 5 + (200 if number % 7 == 0 else number % 3)
        pace.stepped(fed, bundles * 100, bundles, [0.01] * bundles, BASE + FED * fed)
    return pace


def waiting(count: int, *, since: float = 0.0) -> list[Candidate]:
    return [Candidate(5, 5, since + 0.5, 128, since, 100) for _ in range(count)]


def test_no_hint_before_the_speed_is_known() -> None:
    assert Pace("v0").hint(Tally()) == Hint(0, 0)


def test_crowded_verifier_hints_shorter_than_an_idle_one() -> None:
    idle, crowded = paced(1).hint(Tally()), paced(64).hint(Tally())
    assert idle.draft > crowded.draft >= 1
    assert idle.run >= crowded.run >= 1


def test_good_drafts_are_wanted_longer_than_bad_ones() -> None:
    pace = paced(8)
    good, bad = Tally(drafted=1000, accepted=950, corrected=50), Tally(drafted=1000, accepted=100, corrected=300)
    assert pace.hint(good).draft > pace.hint(bad).draft >= 1


def test_new_sessions_are_refused_only_when_far_behind() -> None:
    pace = paced(8)
    pace.planned(waiting(4), 40, 800, 0.0)
    assert pace.too_busy(0.0) is None
    pace.planned(waiting(4000), 40, 800, 0.0)
    busy = pace.too_busy(0.0)
    assert busy is not None
    assert "'v0'" in busy.sentence
    assert busy.retry_after > 0


def test_bundle_is_refused_only_when_it_would_come_too_late() -> None:
    pace = paced(8)
    late = Candidate(5, 5, 0.5, 128, 0.0, 100)
    assert pace.too_late(late, [late, *waiting(4)], 0.0) is None
    before_it = [Candidate(5, 5, 0.1, 128, 0.0, 100)] * 4000
    busy = pace.too_late(late, [late, *before_it], 0.0)
    assert busy is not None
    assert f"can wait for {LATE * LEAST_PATIENCE:.1f} s" in busy.sentence


def test_behind_is_what_was_left_waiting() -> None:
    pace = paced(8)
    pace.planned([], 40, 800, 0.0)
    assert pace.behind == 0
    pace.planned(waiting(100), 40, 800, 0.0)
    little = pace.behind
    pace.planned(waiting(1000), 40, 800, 0.0)
    assert pace.behind > 5 * little > 0
