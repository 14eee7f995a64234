"""Confidences against verdicts."""

from __future__ import annotations

import math
from random import Random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.calibration import EDGES, MEMORY, Calibration, Share
from edge_agent.drafters.drafter import Proposal
from edge_agent.spool import Spool

ODD = st.sampled_from([math.nan, math.inf, -math.inf, -1.0, 0.0, 1.0, 2.0])
CONFIDENCES = st.floats(0, 1) | ODD
VERDICTS = st.lists(st.tuples(st.lists(CONFIDENCES, max_size=8), st.integers(0, 8)), max_size=40)


def proposal(confidence: float, source: str = "model", *, sampled: bool = False) -> Proposal:
    return Proposal(1, confidence, source=source, sampled=sampled)


def taught(*lessons: tuple[list[float], int]) -> Calibration:
    calibration = Calibration()
    for confidences, accepted in lessons:
        calibration.learn([proposal(confidence) for confidence in confidences], accepted)
    return calibration


@given(verdicts=VERDICTS, confidence=CONFIDENCES)
def test_chances_are_never_certain(verdicts: list[tuple[list[float], int]], confidence: float) -> None:
    calibration = taught(*verdicts)
    assert 0 < calibration.chance(proposal(confidence)) < 1
    assert 0 < calibration.mean("model", sampled=False) < 1


@pytest.mark.parametrize("right", [True, False])
@pytest.mark.parametrize("confidence", [0.0, 0.5, 1.0])
def test_chance_is_not_certain_however_much_was_seen(right: bool, confidence: float) -> None:
    calibration = taught(*[([confidence], int(right))] * 5_000)
    assert 0 < calibration.chance(proposal(confidence)) < 1


@given(verdicts=VERDICTS, confidence=CONFIDENCES, number=st.integers(0, 39))
def test_one_more_right_never_lowers_a_chance(
    verdicts: list[tuple[list[float], int]], confidence: float, number: int
) -> None:
    """The same verdicts, but in one place a token was accepted instead of rejected."""
    singles = [([c], int(i < accepted)) for confidences, accepted in verdicts for i, c in enumerate(confidences)]
    singles.insert(number, ([confidence], 0))
    better = [(c, 1) if i == min(number, len(singles) - 1) else (c, a) for i, (c, a) in enumerate(singles)]
    worse, best = taught(*singles), taught(*better)
    for each in (confidence, 0.01, 0.5, 0.99):
        assert best.chance(proposal(each)) >= worse.chance(proposal(each))
    assert best.mean("model", sampled=False) > worse.mean("model", sampled=False)
    assert best.chance(proposal(confidence)) > worse.chance(proposal(confidence))


@pytest.mark.parametrize("seed", range(3))
def test_chances_become_the_true_ones(seed: int) -> None:
    """A drafter that is too sure of itself: it is right with the square of what it says."""
    random, calibration = Random(seed), Calibration()
    total = hits = 0
    for _ in range(4_000):
        draft = [proposal(random.random()) for _ in range(6)]
        accepted = next((i for i, each in enumerate(draft) if random.random() >= each.confidence**2), len(draft))
        hits, total = hits + accepted, total + min(accepted + 1, len(draft))
        calibration.learn(draft, accepted)
    for low, high in zip((0.0, *EDGES), (*EDGES, 1.0), strict=True):
        middle = (low + high) / 2
        assert calibration.chance(proposal(middle)) == pytest.approx(middle**2, abs=0.1), middle
    assert calibration.mean("model", sampled=False) == pytest.approx(hits / total, abs=0.08)


def test_chance_before_anything_is_known_is_the_confidence_of_its_bin() -> None:
    for low, high in zip((0.0, *EDGES), (*EDGES, 1.0), strict=True):
        assert Calibration().chance(proposal((low + high) / 2)) == pytest.approx((low + high) / 2)


def test_a_few_verdicts_do_not_outweigh_the_confidence_many_do() -> None:
    few, many = taught(([0.85], 0)), taught(*[([0.85], 0)] * 100)
    assert 0.6 < few.chance(proposal(0.85)) < 0.85
    assert many.chance(proposal(0.85)) < 0.05


def test_old_verdicts_fade() -> None:
    calibration = taught(*[([0.5], 1)] * 5_000, *[([0.5], 0)] * round(2 * MEMORY))
    assert calibration.chance(proposal(0.5)) < 0.2
    assert calibration.mean("model", sampled=False) < 0.2


def test_the_first_rejected_token_is_judged_and_those_behind_it_are_not() -> None:
    calibration, fresh = taught(([0.95, 0.55, 0.25], 1)), Calibration()
    assert calibration.chance(proposal(0.96)) > fresh.chance(proposal(0.96))
    assert calibration.chance(proposal(0.55)) < fresh.chance(proposal(0.55))
    assert calibration.chance(proposal(0.25)) == fresh.chance(proposal(0.25))


def test_a_draft_accepted_whole_has_no_rejected_token() -> None:
    assert taught(([0.5, 0.5], 2)).chance(proposal(0.5)) > taught(([0.5, 0.5], 1)).chance(proposal(0.5))
    assert taught(([0.55] * 2, 2)).chance(proposal(0.55)) > Calibration().chance(proposal(0.55))


def test_sources_are_calibrated_apart_and_so_are_greedy_and_sampled_tokens() -> None:
    calibration = taught(*[([0.5], 0)] * 50)
    assert calibration.chance(proposal(0.5)) < 0.1
    for other in (proposal(0.5, "lookup"), proposal(0.5, sampled=True), Proposal(1, 0.5, source="model", weights="0a")):
        assert calibration.chance(other) == Calibration().chance(other)
        assert calibration.mean(other.learner, sampled=other.sampled) == 0.5


def test_what_was_learnt_of_other_weights_of_the_same_name_is_kept_apart_from_them() -> None:
    old, new = (Proposal(1, 0.5, source="model", weights=digits) for digits in ("0a", "0b"))
    calibration, again = Calibration(), Calibration()
    calibration.learn([old], 1)
    calibration.learn([new], 0)
    again.load(calibration.unkept())
    assert again.chance(old) > 0.5 > again.chance(new)


def test_a_confidence_that_is_no_number_is_none() -> None:
    assert Calibration().chance(proposal(math.nan)) == Calibration().chance(proposal(0.0)) < 0.05
    assert taught(*[([math.nan], 1)] * 9).chance(proposal(0.0)) > 0.5


@pytest.mark.parametrize(("hits", "tries"), [(-1, 1), (2, 1), (0, math.inf), (math.nan, 1), (1, math.nan)])
def test_counts_that_cannot_be_are_refused(hits: float, tries: float) -> None:
    with pytest.raises(ValueError, match="cannot be"):
        Share(hits, tries)


# Kept -----------------------------------------------------------------------------------------------------------------


def kept(calibration: Calibration) -> Spool:
    spool = Spool(None)
    spool.keep_calibration(calibration.unkept())
    return spool


@given(verdicts=VERDICTS, confidence=CONFIDENCES, sampled=st.booleans())
def test_what_was_kept_is_what_was_learnt(
    verdicts: list[tuple[list[float], int]], confidence: float, sampled: bool
) -> None:
    calibration = Calibration()
    for confidences, accepted in verdicts:
        calibration.learn([proposal(each, "café", sampled=sampled) for each in confidences], accepted)
    spool, again = kept(calibration), Calibration()
    assert again.load(spool.calibration()) == []
    spool.close()
    same = proposal(confidence, "café", sampled=sampled)
    assert again.chance(same) == calibration.chance(same)
    assert again.mean("café", sampled=sampled) == calibration.mean("café", sampled=sampled)
    assert again.mean("café", sampled=not sampled) == 0.5


def test_only_what_has_changed_is_kept_again() -> None:
    calibration = Calibration()
    calibration.learn([proposal(0.5, "a"), proposal(0.5, "b")], 2)
    assert {name for name, _, _ in calibration.unkept()} == {"a", "b"}
    assert calibration.unkept() == []
    calibration.learn([proposal(0.5, "b")], 0)
    assert [name for name, _, _ in calibration.unkept()] == ["b"]


def test_what_was_loaded_is_learnt_on() -> None:
    spool, calibration = kept(taught(*[([0.55], 1)] * 10)), Calibration()
    calibration.load(spool.calibration())
    spool.close()
    before = calibration.chance(proposal(0.55))
    calibration.learn([proposal(0.55)], 0)
    assert Calibration().chance(proposal(0.55)) < calibration.chance(proposal(0.55)) < before


SOUND = taught(([0.55] * 9, 9)).unkept()[0][2]
DAMAGED: dict[str, tuple[object, ...]] = {
    "cut": ("model", 0, SOUND[:-3]),
    "empty": ("model", 0, b""),
    "zeroes": ("model", 0, bytes(len(SOUND))),
    "another number of bins": ("model", 0, msgspec.msgpack.encode([[[0, 0]] * 3, [0, 0]])),
    "impossible counts": ("model", 0, msgspec.msgpack.encode([[[9, 1]] * (len(EDGES) + 1), [0, 0]])),
    "not a number": ("model", 0, msgspec.msgpack.encode([[[math.nan, 1.0]] * (len(EDGES) + 1), [0, 0]])),
    "no blob": ("model", 0, 17),
    "no name": (None, 0, SOUND),
    "no truth": ("model", "maybe", SOUND),
    "no row": (),
}


@pytest.mark.parametrize("row", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_row_is_left_out_and_told_of_and_the_others_are_taken(row: tuple[object, ...]) -> None:
    calibration = Calibration()
    (complaint,) = calibration.load([row, ("other", 1, SOUND)])
    assert "is damaged and is learnt anew" in complaint
    assert calibration.chance(proposal(0.55)) == Calibration().chance(proposal(0.55))
    assert calibration.chance(proposal(0.55, "other", sampled=True)) > 0.8
