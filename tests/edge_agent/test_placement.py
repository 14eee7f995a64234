"""Which verifier a device turns to, and when it moves."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from edge_agent.events import Terms
from edge_agent.health import FIRST_DELAY, STANDSTILL
from edge_agent.placement import Length, Placement
from schemas.messages import VERSION, VerifierState

OURS = "70ce11a5"
OTHERS = "0ddba11"


def state(capacity: int = 8, tokenizer: str = OURS) -> VerifierState:
    return VerifierState(
        VERSION,
        "online",
        "b007",
        target="tiny",
        tokenizer=tokenizer,
        vocab_size=100,
        context_length=200,
        end_tokens=(0, 7),
        capacity=capacity,
        round_time=40_000,
    )


OFFLINE = VerifierState(VERSION, "offline", "b007")


def picked(placement: Placement, now: float = 0.0, in_use: str = "") -> str | None:
    terms = placement.pick(now, in_use)
    return terms.verifier if terms else None


def choice(device: str, capacities: dict[str, int]) -> str | None:
    """Where a fresh device goes."""
    placement = Placement(device, OURS)
    for verifier, capacity in capacities.items():
        placement.announce(verifier, state(capacity), 0.0)
    terms = placement.pick(0.0)
    return terms.verifier if terms else None


def crowd(number: int, capacities: dict[str, int]) -> dict[str, str | None]:
    return {f"device-{i}": choice(f"device-{i}", capacities) for i in range(number)}


def test_pick_without_announcement_is_none() -> None:
    assert Placement("pi", OURS).pick(0.0) is None


def test_pick_returns_what_the_verifier_announced() -> None:
    placement = Placement("pi", OURS)
    placement.announce("v0", state(), 0.0)
    assert placement.pick(0.0) == Terms("v0", "b007", 100, 200, frozenset({0, 7}), 0.04, "tiny")


def test_pick_follows_new_announcements_of_the_same_verifier() -> None:
    placement = Placement("pi", OURS)
    placement.announce("v0", state(), 0.0)
    placement.pick(0.0)
    placement.announce("v0", replace(state(), boot="b008", round_time=1_000_000), 0.0)
    assert placement.pick(0.0) == Terms("v0", "b008", 100, 200, frozenset({0, 7}), 1.0, "tiny")


def test_pick_keeps_its_choice_when_others_come() -> None:
    placement = Placement("pi", OURS)
    placement.announce("v0", state(capacity=1), 0.0)
    placement.pick(0.0)
    for number in range(1, 20):
        placement.announce(f"v{number}", state(capacity=1000), 0.0)
        terms = placement.pick(0.0)
        assert terms is not None
        assert terms.verifier == "v0"


def test_the_next_text_goes_where_a_fresh_device_would() -> None:
    """One that joined, or came back, gets its part."""
    placement = Placement("pi", OURS)
    placement.announce("v0", replace(state(capacity=1), numerics="a"), 0.0)
    assert picked(placement) == "v0"
    crowded = {f"v{number}": 1000 for number in range(1, 20)}
    for name, capacity in crowded.items():
        placement.announce(name, replace(state(capacity), numerics="b"), 0.0)
    placement.begin()
    assert picked(placement) == choice("pi", {"v0": 1, **crowded}) != "v0"


def sized(**lengths: int) -> Placement:
    """A placement that knows verifiers with these context lengths."""
    placement = Placement("pi", OURS)
    for verifier, length in lengths.items():
        placement.announce(verifier, replace(state(), context_length=length), 0.0)
    return placement


@pytest.mark.parametrize("small", ["v1", "v2", "v3"])
def test_a_text_begins_with_a_verifier_that_can_hold_all_of_it(small: str) -> None:
    """Whatever the scores."""
    placement = sized(**dict.fromkeys(("v1", "v2", "v3"), 150) | {small: 149})
    placement.begin(length=Length(50, 100))
    first = picked(placement)
    placement.announce(first or "", OFFLINE, 0.0)
    assert {small, first, picked(placement)} == {"v1", "v2", "v3"}


def test_a_text_that_none_can_hold_begins_with_the_one_that_holds_most() -> None:
    placement = sized(v1=100, v2=120, v3=110)
    placement.begin(length=Length(50, 100))
    assert picked(placement) == "v2"


def test_a_prompt_that_none_can_hold_is_for_the_one_that_holds_most_to_refuse() -> None:
    placement = sized(v1=40, v2=50, v3=45)
    placement.begin(length=Length(50, 100))
    assert picked(placement) == "v2"


def test_one_that_drains_is_not_waited_for_where_another_can_hold_the_prompt() -> None:
    placement = sized(v1=100, v2=40)
    placement.announce("v3", replace(state(), draining=True), 0.0)
    placement.begin(length=Length(50, 100))
    assert picked(placement) == "v1"
    placement.announce("v1", OFFLINE, 0.0)
    placement.begin(length=Length(50, 100))
    assert picked(placement) is None, "one that cannot hold the prompt would only refuse it"


def test_a_text_under_way_waits_for_a_verifier_that_can_hold_all_of_it() -> None:
    placement = sized(v1=150, v2=149)
    placement.begin(length=Length(50, 100))
    assert picked(placement) == "v1"
    placement.keep("tiny", Length(50, 100, settled=True))
    placement.announce("v1", OFFLINE, 0.0)
    assert picked(placement) is None
    placement.announce("v1", replace(state(), boot="b008", context_length=100), 0.0)
    assert picked(placement) is None, "started again with less memory"
    placement.announce("v3", replace(state(), context_length=150), 0.0)
    assert picked(placement) == "v3"


def test_a_text_under_way_does_not_leave_for_one_that_cannot_hold_it() -> None:
    placement = sized(v1=150, v2=149)
    placement.begin("tiny", Length(50, 100, settled=True))
    placement.pick(0.0)
    placement.health.failed("v1", 0.0)
    assert picked(placement) == "v1"


GONE = {
    "offline": OFFLINE,
    "cleared": None,
    "other target": state(8, OTHERS),
}


@pytest.mark.parametrize("gone", GONE.values(), ids=GONE.keys())
def test_pick_moves_when_the_choice_no_longer_serves_and_stays_there(gone: VerifierState | None) -> None:
    placement = Placement("pi", OURS)
    placement.announce("v0", state(), 0.0)
    placement.pick(0.0)
    placement.announce("v1", state(), 0.0)
    placement.announce("v0", gone, 0.0)
    moved = placement.pick(0.0)
    assert moved is not None
    assert moved.verifier == "v1"
    placement.announce("v0", state(), 0.0)
    assert placement.pick(0.0) == moved


@pytest.mark.parametrize("gone", GONE.values(), ids=GONE.keys())
def test_pick_is_none_when_the_only_verifier_no_longer_serves(gone: VerifierState | None) -> None:
    placement = Placement("pi", OURS)
    placement.announce("v0", state(), 0.0)
    placement.pick(0.0)
    placement.announce("v0", gone, 0.0)
    assert placement.pick(0.0) is None
    placement.announce("v0", state(), 0.0)
    assert placement.pick(0.0) is not None


def test_announce_cleared_of_an_unknown_verifier_is_fine() -> None:
    placement = Placement("pi", OURS)
    placement.announce("v0", None, 0.0)
    assert placement.pick(0.0) is None


def test_pick_fills_verifiers_in_proportion_to_their_capacity() -> None:
    """Hashes are fixed, so this is no matter of luck: of 4,000 devices, shares of 1 : 2 : 5 to within 2.5 points."""
    counts = Counter(crowd(4000, {"v0": 10, "v1": 20, "v2": 50}).values())
    shares = [counts[name] / 4000 for name in ("v0", "v1", "v2")]
    assert shares == pytest.approx([1 / 8, 2 / 8, 5 / 8], abs=0.025)


def test_pick_spreads_devices_even_where_no_capacity_is_announced() -> None:
    counts = Counter(crowd(1000, {"v0": 0, "v1": 0}).values())
    assert counts["v0"] == pytest.approx(500, abs=60)


CAPACITIES = st.dictionaries(st.from_regex(r"\A[a-z][a-z0-9-]{0,8}\Z"), st.integers(0, 1000), min_size=2, max_size=8)


@settings(deadline=None, max_examples=50)
@given(capacities=CAPACITIES, data=st.data())
def test_pick_without_one_verifier_moves_only_its_own_devices(capacities: dict[str, int], data: st.DataObject) -> None:
    gone = data.draw(st.sampled_from(sorted(capacities)))
    before = crowd(30, capacities)
    after = crowd(30, {name: capacity for name, capacity in capacities.items() if name != gone})
    for device, verifier in before.items():
        assert after[device] != gone
        if verifier != gone:
            assert after[device] == verifier


@settings(deadline=None, max_examples=50)
@given(capacities=CAPACITIES, data=st.data())
def test_pick_does_not_depend_on_the_order_of_announcements(capacities: dict[str, int], data: st.DataObject) -> None:
    shuffled = dict(data.draw(st.permutations(list(capacities.items()))))
    assert choice("pi", shuffled) == choice("pi", capacities)


def test_misfit_names_both_tokenizers_the_verifier_and_its_target() -> None:
    placement = Placement("pi", OURS)
    placement.announce("v1", state(tokenizer=OTHERS), 0.0)
    placement.announce("v2", state(tokenizer=OTHERS), 0.0)
    misfit = placement.misfit()
    assert misfit is not None
    assert misfit.code == "tokenizer_mismatch"
    assert misfit.sentence == (
        f"the device's tokenizer ({OURS}) is not that of verifier 'v1' ({OTHERS}, target 'tiny'): "
        "set the device up with a drafter and tokenizer for that target"
    )


@pytest.mark.parametrize(
    "announced",
    [
        {},
        {"v0": OFFLINE},
        {"v0": state()},
        {"v0": state(tokenizer=OTHERS), "v1": state()},
        {"v0": state(tokenizer=OTHERS), "v1": replace(state(), draining=True)},
    ],
    ids=["nobody", "offline", "fitting", "one of two fits", "the fitting one drains"],
)
def test_misfit_is_none_while_there_is_hope(announced: dict[str, VerifierState]) -> None:
    placement = Placement("pi", OURS)
    for verifier, known in announced.items():
        placement.announce(verifier, known, 0.0)
    assert placement.misfit() is None


def test_text_that_one_target_began_is_not_anothers_to_end() -> None:
    placement = Placement("pi", OURS)
    placement.announce("v0", state(), 0.0)
    assert placement.pick(0.0) is not None
    placement.keep("tiny")
    placement.announce("v0", replace(state(), status="offline"), 0.0)
    placement.announce("v1", replace(state(), target="other"), 0.0)
    assert placement.pick(0.0) is None
    placement.begin()
    picked = placement.pick(0.0)
    assert picked is not None
    assert picked.verifier == "v1"


def test_target_the_agent_was_set_up_for_is_the_only_one_and_the_sentence_says_so() -> None:
    placement = Placement("pi", OURS, "other")
    placement.announce("v0", state(), 0.0)
    assert placement.pick(0.0) is None
    misfit = placement.misfit()
    assert misfit is not None
    assert misfit.code == "target_mismatch"
    assert "'other'" in misfit.sentence
    assert "'tiny'" in misfit.sentence


def test_verifier_not_announced_again_after_the_connection_was_away_is_forgotten() -> None:
    """It may have died meanwhile, with a broker that forgot its last will."""
    placement = Placement("pi", OURS)
    for name in ("v0", "v1"):
        placement.announce(name, state(), 0.0)
    first = placement.pick(0.0)
    assert first is not None
    placement.doubt(0.0)
    other = "v1" if first.verifier == "v0" else "v0"
    placement.announce(other, state(), 0.0)
    assert placement.pick(0.0) == first, "until then it stays"
    placement.drop_doubtful()
    second = placement.pick(0.0)
    assert second is not None
    assert second.verifier == other


@pytest.mark.parametrize("speaks_first", ["v0", "v1"])
def test_nobody_has_stood_still_while_the_device_was_away(speaks_first: str) -> None:
    """Whoever is heard again first: a text does not move for an outage of the device's own."""
    placement = Placement("pi", OURS)
    for name in ("v0", "v1"):
        placement.announce(name, state(), 0.0)
    first = picked(placement)
    back = 10 * STANDSTILL
    placement.doubt(back)
    placement.announce(speaks_first, replace(state(), heartbeat=50), back)
    assert picked(placement, back + 1) == first


def test_text_begun_before_a_restart_prefers_its_numerics() -> None:
    placement = Placement("pi", OURS)
    for number in range(1, 20):
        placement.announce(f"v{number}", replace(state(), numerics="a" if number == 7 else "b"), 0.0)
    placement.begin(numerics="a")
    assert picked(placement) == "v7"


def test_equal_numerics_are_preferred() -> None:
    placement = Placement("pi", OURS)
    placement.announce("v0", replace(state(), numerics="a"), 0.0)
    placement.pick(0.0)
    for number in range(1, 20):
        placement.announce(f"v{number}", replace(state(), numerics="a" if number == 7 else "b"), 0.0)
    placement.announce("v0", None, 0.0)
    picked = placement.pick(0.0)
    assert picked is not None
    assert picked.verifier == "v7"


def test_pick_leaves_a_verifier_that_drains_for_another() -> None:
    placement = Placement("pi", OURS)
    placement.announce("v0", state(), 0.0)
    placement.pick(0.0)
    placement.announce("v0", replace(state(), draining=True), 0.0)
    placement.announce("v1", state(), 0.0)
    assert picked(placement) == "v1"


def test_pick_keeps_a_verifier_that_drains_while_there_is_no_other_and_until_the_text_has_ended() -> None:
    placement = Placement("pi", OURS)
    placement.announce("v0", state(), 0.0)
    placement.pick(0.0)
    placement.announce("v0", replace(state(), draining=True), 0.0)
    assert picked(placement) == "v0"
    placement.begin()
    assert picked(placement) is None


def test_one_that_drains_and_serves_the_text_is_kept_where_the_one_picked_for_it_is_gone_again() -> None:
    placement = Placement("pi", OURS)
    placement.announce("v0", replace(state(), draining=True), 0.0)
    placement.announce("v1", state(), 0.0)
    assert picked(placement, in_use="v0") == "v1"
    placement.announce("v1", replace(state(), status="offline"), 0.0)
    assert picked(placement, in_use="v0") == "v0"
    placement.announce("v2", state(), 0.0)
    assert picked(placement, in_use="v0") == "v2"
    placement.announce("v2", None, 0.0)
    placement.announce("v0", None, 0.0)
    assert picked(placement, in_use="v0") is None


def test_one_that_drains_still_answers_what_it_was_sent_unless_something_else_speaks_against_it() -> None:
    placement = Placement("pi", OURS)
    assert not placement.answers("v0", 0.0)
    placement.announce("v0", state(), 0.0)
    assert not placement.answers("v0", 0.0), "nobody leaves it"
    placement.announce("v0", replace(state(), draining=True), 0.0)
    assert placement.answers("v0", 0.0)
    placement.health.failed("v0", 0.0)
    assert not placement.answers("v0", 0.0)
    placement.health.answered("v0")
    placement.announce("v0", replace(state(), draining=True, status="offline"), 0.0)
    assert not placement.answers("v0", 0.0)


def test_pick_never_begins_with_a_verifier_that_drains() -> None:
    placement = Placement("pi", OURS)
    placement.announce("v0", replace(state(), draining=True), 0.0)
    assert picked(placement) is None


def test_pick_leaves_a_verifier_whose_heartbeat_stands_still() -> None:
    """Announcements alone are no sign of life; another number is."""
    placement = Placement("pi", OURS)
    placement.announce("v0", replace(state(), heartbeat=1), 0.0)
    placement.pick(0.0)
    placement.announce("v1", state(), 0.0)
    for now in range(5, 30, 5):
        placement.announce("v0", replace(state(), heartbeat=1), now)
        placement.announce("v1", replace(state(), heartbeat=now), now)
        assert picked(placement, now) == ("v0" if now <= STANDSTILL else "v1")


def test_pick_leaves_a_verifier_that_fell_silent_only_where_another_speaks() -> None:
    placement = Placement("pi", OURS)
    placement.announce("v0", replace(state(), heartbeat=1), 0.0)
    placement.pick(0.0)
    assert picked(placement, 1000.0) == "v0"
    placement.announce("v1", state(), 1000.0)
    assert picked(placement, 1000.0) == "v1"


def test_pick_tries_a_verifier_that_failed_again_after_ever_longer() -> None:
    placement = Placement("pi", OURS)
    placement.announce("v0", state(), 0.0)
    placement.pick(0.0)
    placement.announce("v1", state(), 0.0)
    delay, now = FIRST_DELAY, 0.0
    for beat in range(4):
        placement.health.failed("v0", now)
        placement.announce("v0", replace(state(), heartbeat=2 * beat), now)
        placement.announce("v1", replace(state(), heartbeat=2 * beat), now)
        assert picked(placement, now) == "v1"
        now += delay - 0.1
        placement.announce("v0", replace(state(), heartbeat=2 * beat + 1), now)
        placement.announce("v1", OFFLINE, now)
        assert picked(placement, now) == "v0", "better a doubted one than none"
        placement.announce("v1", replace(state(), heartbeat=2 * beat + 1), now)
        assert picked(placement, now) == "v1"
        now += 0.1
        assert not placement.health.doubtful("v0", now)
        placement.announce("v1", OFFLINE, now)
        assert picked(placement, now) == "v0"
        delay *= 2


FULL = replace(state(capacity=8), load=8)


def beside_a_full_one() -> Placement:
    """A placement that keeps v0, beside a full v1."""
    placement = Placement("pi", OURS)
    placement.announce("v0", state(), 0.0)
    placement.pick(0.0)
    placement.announce("v1", FULL, 0.0)
    return placement


def test_a_verifier_that_drains_serves_on_while_the_others_are_full() -> None:
    placement = beside_a_full_one()
    placement.announce("v0", replace(state(), draining=True), 0.0)
    assert picked(placement) == "v0"
    placement.announce("v1", replace(FULL, load=7), 0.0)
    assert picked(placement) == "v1"


def test_a_verifier_that_refuses_is_left_only_for_one_that_has_room() -> None:
    placement = beside_a_full_one()
    placement.health.busy("v0", 3.0, 0.0)
    assert picked(placement) == "v0"
    placement.announce("v1", replace(FULL, load=7), 0.0)
    assert picked(placement) == "v1"


def test_a_verifier_that_does_not_answer_is_left_even_for_a_full_one() -> None:
    placement = beside_a_full_one()
    placement.health.failed("v0", 0.0)
    assert picked(placement) == "v1"


def test_a_full_verifier_keeps_the_texts_that_it_serves_and_gets_no_others_where_there_is_room() -> None:
    placement = beside_a_full_one()
    placement.announce("v0", replace(FULL, load=9), 0.0)
    placement.announce("v1", state(), 0.0)
    assert picked(placement) == "v0"
    placement.begin()
    assert picked(placement) == "v1"
    placement.announce("v1", FULL, 0.0)
    placement.begin()
    assert picked(placement) in ("v0", "v1"), "the first to have room will serve it"


def test_an_answer_ends_all_doubt() -> None:
    placement = Placement("pi", OURS)
    placement.announce("v0", state(), 0.0)
    placement.health.failed("v0", 0.0)
    placement.health.failed("v0", FIRST_DELAY)
    placement.health.answered("v0")
    assert not placement.health.doubtful("v0", FIRST_DELAY)
    placement.health.failed("v0", 100.0)
    placement.announce("v0", replace(state(), heartbeat=9), 100.0)
    assert placement.health.doubtful("v0", 100.0 + FIRST_DELAY - 0.1)
    assert not placement.health.doubtful("v0", 100.0 + FIRST_DELAY)


def test_a_busy_verifier_is_left_alone_for_as_long_as_it_asks() -> None:
    placement = Placement("pi", OURS)
    placement.announce("v0", state(), 0.0)
    placement.pick(0.0)
    placement.announce("v1", state(), 0.0)
    placement.health.busy("v0", 3.0, 0.0)
    assert placement.health.doubtful("v0", 2.9)
    assert not placement.health.doubtful("v0", 3.0)
    assert picked(placement, 1.0) == "v1"


def test_reason_says_why_a_verifier_was_left() -> None:
    placement = sized(v0=200)
    placement.keep("tiny", Length(50, 100, settled=True))
    placement.health.failed("v0", 0.0)
    assert placement.reason("v0", FIRST_DELAY - 0.1) == "silent"
    placement.health.busy("v0", FIRST_DELAY - 0.1, 0.0)
    assert placement.reason("v0", 1.0) == "silent", "still, and for longer"
    placement.health.busy("v0", 20.0, 0.0)
    assert placement.reason("v0", 19.0) == "busy"
    assert placement.reason("v0", 20.0) == "standstill"
    for changed, reason in (
        (replace(state(), draining=True), "draining"),
        (replace(state(), context_length=149), "unfit"),
        (replace(state(), target="other"), "unfit"),
        (OFFLINE, "gone"),
        (None, "gone"),
        (replace(state(), boot="b008"), "gone"),
    ):
        placement.announce("v0", changed, 0.0)
        assert placement.reason("v0", 1.0) == reason


def test_another_run_of_a_verifier_has_nothing_against_it() -> None:
    placement = Placement("pi", OURS)
    placement.announce("v0", state(), 0.0)
    placement.health.failed("v0", 0.0)
    placement.announce("v0", replace(state(), boot="b009"), 1.0)
    assert not placement.health.doubtful("v0", 1.0)
