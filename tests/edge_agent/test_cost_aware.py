"""The rule of the default policy, against its definition and against fixed lengths in virtual time."""

from __future__ import annotations

import math
from statistics import median

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.calibration import Calibration
from edge_agent.cost_aware import FIRST, LEAST_CHANCE, LEAST_CHANCE_AHEAD, LONGEST, CostAware
from edge_agent.drafters.drafter import Proposal
from edge_agent.policy import Outcome, parse_policy
from tests.edge_agent.simulation import Setting, tokens_per_second

SOURCES = st.sampled_from(["lookup", "model"])
PROPOSALS = st.builds(
    Proposal,
    st.integers(0, 9),
    st.floats(0, 1),
    source=SOURCES,
    weights=st.sampled_from(["", "0a"]),
    seconds=st.floats(0.001, 0.05) | st.just(0.0),
    sampled=st.booleans(),
)
DRAFTS = st.lists(PROPOSALS, max_size=LONGEST + 2)


@st.composite
def outcomes(draw: st.DrawFn) -> Outcome:
    proposals = tuple(draw(st.lists(PROPOSALS, max_size=8)))
    accepted = draw(st.integers(0, len(proposals)))
    seconds, step = draw(st.none() | st.floats(0.001, 2)), draw(st.none() | st.floats(0.05, 0.12))
    return Outcome(proposals, accepted, accepted + 1, seconds, draw(st.integers(0, 8)), step)


def model(confidence: float, seconds: float = 0.0) -> Proposal:
    return Proposal(1, confidence, source="model", seconds=seconds)


def taught(*lessons: Outcome) -> CostAware:
    policy = CostAware()
    for lesson in lessons:
        policy.learn(lesson)
    return policy


def round_of(committed: int, seconds: float | None, *, draft: float = 0.01) -> Outcome:
    """A round that was accepted whole, of a drafter that needs `draft` seconds for a token."""
    return Outcome((model(0.99, draft),) * (committed - 1), committed - 1, committed, seconds)


def drafted(policy: CostAware, draft: list[Proposal]) -> int:
    """How many of these tokens are drafted."""
    return next((length for length in range(1, len(draft)) if policy.enough(draft[:length])), len(draft))


# The rule, written out ------------------------------------------------------------------------------------------------


def per_token(lessons: list[Outcome]) -> float:
    """v: the slope of the step over the tokens sent, fitted to all steps at once, with half a token² of doubt."""
    steps = [(lesson.sent, lesson.step) for lesson in lessons if lesson.sent and lesson.step is not None]
    if not steps:
        return 0.0
    weights = [0.98 ** (len(steps) - 1 - number) for number in range(len(steps))]
    weighted = [(weight, *each) for weight, each in zip(weights, steps, strict=True)]
    tokens = sum(weight * sent for weight, sent, _ in weighted) / sum(weights)
    seconds = sum(weight * step for weight, _, step in weighted) / sum(weights)
    around = [(weight, sent - tokens, step - seconds) for weight, sent, step in weighted]
    variance = sum(weight * sent * sent for weight, sent, _ in around) / sum(weights)
    covariance = sum(weight * sent * step for weight, sent, step in around) / sum(weights)
    return min(max(0.0, covariance / (variance + 0.5)), seconds)


def worth_it(lessons: list[Outcome], draft: list[Proposal]) -> bool | None:
    """Whether P_k·q > r·(d + v), from all that happened since the beginning; None where r or d is not known."""
    calibration = Calibration()
    for lesson in lessons:
        calibration.learn(lesson.proposals, lesson.accepted)
    chance = calibration.mean(draft[-1].learner, sampled=draft[-1].sampled)
    for proposal in draft:
        chance *= calibration.chance(proposal)
    timed = [lesson for lesson in lessons if lesson.proposals and lesson.seconds is not None]
    weights = [0.9 ** (len(timed) - 1 - number) for number in range(len(timed))]
    of_source = [p.seconds for lesson in lessons for p in lesson.proposals if p.source == draft[-1].source]
    measured = [seconds for seconds in of_source if seconds > 0][-33:]
    if not timed or not measured:
        return None
    tokens = sum(weight * lesson.committed for weight, lesson in zip(weights, timed, strict=True))
    seconds = sum(weight * (lesson.seconds or 0) for weight, lesson in zip(weights, timed, strict=True))
    margin = chance - max(tokens / seconds * (median(measured) + per_token(lessons)), LEAST_CHANCE)
    return margin > 0 if abs(margin) > 1e-9 else None


@given(lessons=st.lists(outcomes(), max_size=12), draft=DRAFTS)
def test_decision_is_that_of_the_rule(lessons: list[Outcome], draft: list[Proposal]) -> None:
    policy = taught(*lessons)
    for length in range(1, len(draft) + 1):
        expected = worth_it(lessons, draft[:length])
        if length >= LONGEST:
            assert policy.enough(draft[:length])
        elif expected is not None:
            assert policy.enough(draft[:length]) == (not expected)


@given(lessons=st.lists(outcomes(), max_size=12), draft=DRAFTS)
def test_what_is_sent_is_that_of_the_rule(lessons: list[Outcome], draft: list[Proposal]) -> None:
    """P_k > r·v, but one token at least."""
    policy = taught(*lessons)
    timed = [lesson for lesson in lessons if lesson.proposals and lesson.seconds is not None]
    weights = [0.9 ** (len(timed) - 1 - number) for number in range(len(timed))]
    seconds = sum(weight * (lesson.seconds or 0) for weight, lesson in zip(weights, timed, strict=True))
    tokens = sum(weight * lesson.committed for weight, lesson in zip(weights, timed, strict=True))
    least = tokens / seconds * per_token(lessons) if timed else 0.0
    chances = [
        math.prod(policy.calibration.chance(each) for each in draft[:length]) for length in range(1, len(draft) + 1)
    ]
    if all(abs(chance - least) > 1e-9 for chance in chances):
        assert policy.worth(draft) == max(min(1, len(draft)), sum(chance > least for chance in chances))


def test_the_more_a_token_takes_to_check_the_shorter_the_draft() -> None:
    def steps(per_token: float) -> list[Outcome]:
        sure = (model(0.9, 0.005),)
        return [Outcome(sure * sent, sent, sent + 1, 0.1, sent, 0.08 + per_token * sent) for sent in (1, 3, 5, 7) * 8]

    cheap, dear = taught(*steps(0.0)), taught(*steps(0.02))
    unsure = [model(0.4)] * LONGEST
    assert drafted(cheap, unsure) > drafted(dear, unsure)
    assert cheap.worth(unsure) == LONGEST > dear.worth(unsure) >= 1


def test_a_step_that_did_something_else_too_is_left_out() -> None:
    """One that read a prompt of somebody, with a long draft."""
    rounds = [Outcome((model(0.9, 0.005),) * sent, sent, sent + 1, 0.1, sent, 0.08) for sent in (1, 3, 5, 7) * 8]
    unsure = [model(0.4)] * LONGEST
    long = Outcome((model(0.9, 0.005),) * 8, 8, 9, 0.1, 8, 0.9)
    assert taught(*rounds, long).worth(unsure) == taught(*rounds).worth(unsure) == LONGEST


def test_a_target_that_has_become_slower_for_good_is_believed() -> None:
    def steps(times: int, first: float, per_token: float) -> list[Outcome]:
        lengths = (1, 3, 5, 7) * times
        return [Outcome((model(0.9, 0.005),) * n, n, n + 1, 0.1, n, first + per_token * n) for n in lengths]

    quick, slow = steps(8, 0.01, 0.0), steps(8, 0.08, 0.02)
    unsure = [model(0.4)] * LONGEST
    assert taught(*quick, *slow).worth(unsure) == taught(*slow).worth(unsure) < LONGEST
    assert taught(*quick, *slow[:3], *quick).worth(unsure) == LONGEST


@given(lessons=st.lists(outcomes(), max_size=12), draft=DRAFTS)
def test_one_token_is_always_drafted(lessons: list[Outcome], draft: list[Proposal]) -> None:
    assert not taught(*lessons).enough([])


@given(lessons=st.lists(outcomes(), max_size=12), draft=st.lists(st.floats(0, 1), min_size=1, max_size=LONGEST))
def test_looking_one_token_ahead_is_enough(lessons: list[Outcome], draft: list[float]) -> None:
    """Of one source: once a token is not worth its time, none behind it is."""
    policy = taught(*lessons, round_of(3, 0.5))
    words = [policy.enough([model(confidence) for confidence in draft[:length]]) for length in range(1, len(draft) + 1)]
    assert words == sorted(words)


@given(lessons=st.lists(outcomes(), max_size=12), draft=DRAFTS)
def test_ahead_is_drafted_while_there_is_some_chance(lessons: list[Outcome], draft: list[Proposal]) -> None:
    policy = taught(*lessons)
    chance = math.prod(policy.calibration.chance(proposal) for proposal in draft)
    if draft:
        chance *= policy.calibration.mean(draft[-1].learner, sampled=draft[-1].sampled)
    if abs(chance - LEAST_CHANCE_AHEAD) > 1e-9:
        assert policy.ahead(draft) == (chance > LEAST_CHANCE_AHEAD)


# What goes into it ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "lessons",
    [[], [round_of(3, None)], [round_of(3, 0.5, draft=0.0)], [round_of(1, 0.5)]],
    ids=["nothing", "no rate", "no draft time", "no draft"],
)
def test_drafts_have_four_tokens_until_there_is_something_to_go_by(lessons: list[Outcome]) -> None:
    policy = taught(*lessons)
    for confidence in (0.01, 0.99):
        assert drafted(policy, [model(confidence)] * 10) == FIRST


def test_first_drafts_stay_below_the_longest() -> None:
    assert CostAware(2).enough([model(0.9)] * 2)


def test_long_rounds_and_quick_drafters_make_long_drafts() -> None:
    draft = [model(0.9)] * (LONGEST + 4)
    quick, slow = (drafted(taught(round_of(4, 0.3, draft=each)), draft) for each in (0.002, 0.05))
    far, near = (drafted(taught(round_of(4, each)), draft) for each in (0.5, 0.05))
    assert quick > slow >= 1
    assert far > near >= 1


def test_unsure_tokens_make_short_drafts() -> None:
    policy = taught(round_of(4, 0.2))
    lengths = [drafted(policy, [model(confidence)] * LONGEST) for confidence in (0.99, 0.85, 0.55, 0.01)]
    assert lengths == sorted(lengths, reverse=True)
    assert lengths[0] > lengths[-1] == 1


def test_confidence_is_believed_as_far_as_verdicts_bear_it_out() -> None:
    trusted, doubted = taught(), taught()
    for _ in range(100):
        trusted.learn(Outcome((model(0.96, 0.01),), 1, 2, 0.1))
        doubted.learn(Outcome((model(0.96, 0.01),), 0, 2, 0.1))
    draft = [model(0.96)] * LONGEST
    assert drafted(doubted, draft) == 1
    assert drafted(trusted, draft) > 4


def test_measures_that_are_no_numbers_are_no_chances_and_no_times() -> None:
    policy = taught(round_of(4, 0.2))
    assert policy.enough([model(math.nan)])
    assert not policy.ahead([model(math.nan)])
    policy.learn(Outcome((model(math.nan, math.nan), model(0.99, math.inf), model(0.99, -1.0)), 3, 4, math.nan))
    policy.learn(Outcome((model(0.99),), 1, 2, math.inf))
    draft = [model(0.75)] * LONGEST
    assert drafted(policy, draft) == drafted(taught(round_of(4, 0.2)), draft) < LONGEST


def test_reading_a_prompt_is_no_draft_time() -> None:
    """The first token of an answer takes a hundred times as long."""
    prompt = Outcome((model(0.99, 1.0), *[model(0.99, 0.01)] * 3), 4, 5)
    usual = round_of(4, 0.2)
    draft = [model(0.9)] * LONGEST
    assert drafted(taught(prompt, usual), draft) == drafted(taught(usual), draft) > 1


def test_runs_say_nothing_of_the_rate() -> None:
    usual, draft = round_of(4, 0.2), [model(0.9)] * LONGEST
    runs = [Outcome((), 0, 9, 5.0)] * 50
    assert drafted(taught(usual, *runs), draft) == drafted(taught(usual), draft)


def test_rate_is_of_late() -> None:
    draft = [model(0.9)] * LONGEST
    now = taught(*[round_of(4, 5.0)] * 20, *[round_of(4, 0.1)] * 80)
    assert drafted(now, draft) == drafted(taught(*[round_of(4, 0.1)] * 100), draft)


def test_drafter_whose_time_was_never_measured_starts_with_four() -> None:
    """Another one has taken over: its tokens have another price."""
    policy = taught(round_of(4, 0.2))
    assert drafted(policy, [Proposal(1, 0.99, source="other")] * LONGEST) == FIRST


def test_free_drafts_stop_where_they_are_hopeless() -> None:
    """A lookup costs nothing on the device, but the server has to check its tokens."""
    policy = taught(
        *[Outcome((Proposal(1, 0.5, source="lookup", seconds=1e-6),), i % 2, 1 + i % 2, 0.1) for i in range(99)]
    )
    length = drafted(policy, [Proposal(1, 0.5, source="lookup")] * LONGEST)
    assert 3 <= length <= 6


@pytest.mark.parametrize("longest", [0, -1])
def test_longest_draft_below_one_is_refused(longest: int) -> None:
    with pytest.raises(ValueError, match=f"longest draft is at least 1 token, but {longest} was given"):
        CostAware(longest)


# In virtual time ------------------------------------------------------------------------------------------------------

SETTINGS = {
    "good drafter, near": Setting(lambda random: random.betavariate(5, 1), lambda sure: sure, 0.006, 0.025),
    "good and quick drafter, far": Setting(lambda random: random.betavariate(5, 1), lambda sure: sure, 0.002, 0.22),
    "good and slow drafter": Setting(lambda random: random.betavariate(5, 1), lambda sure: sure, 0.02, 0.07),
    "poor drafter, near": Setting(lambda random: random.betavariate(1, 1.5), lambda sure: sure, 0.006, 0.025),
    "sure or not": Setting(lambda random: random.choice([0.97, 0.97, 0.3]), lambda sure: sure, 0.006, 0.07),
    "too sure of itself": Setting(lambda random: random.betavariate(4, 1), lambda sure: sure**2.5, 0.006, 0.07),
    "too modest": Setting(lambda random: random.betavariate(1, 2), lambda sure: sure**0.2, 0.006, 0.07),
}


@pytest.mark.parametrize("setting", SETTINGS.values(), ids=SETTINGS)
def test_earns_what_the_best_fixed_length_earns(setting: Setting) -> None:
    """Which length is best differs between the settings, and nobody has told the policy which one it is in."""
    fixed = {length: tokens_per_second(parse_policy(f"fixed:{length}"), setting) for length in (2, 4, 8, 12)}
    own = tokens_per_second(CostAware(), setting)
    assert own >= 0.95 * max(fixed.values()), (own, fixed)


def test_settings_have_different_best_lengths() -> None:
    """Or the test above would say little."""
    best = set()
    for name in ("good drafter, near", "good and quick drafter, far", "poor drafter, near"):
        earned = {
            length: tokens_per_second(parse_policy(f"fixed:{length}"), SETTINGS[name], answers=2)
            for length in (2, 4, 8, 12)
        }
        best.add(max(earned, key=lambda length: earned[length]))
    assert len(best) >= 2
