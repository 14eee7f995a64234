"""When a draft is long enough."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from msgspec.structs import replace

from edge_agent.cost_aware import LONGEST, CostAware
from edge_agent.drafters.drafter import Proposal
from edge_agent.policy import (
    DEFAULT_MAX_DRAFT,
    Confidence,
    Entropy,
    FixedLength,
    Margin,
    Outcome,
    Policy,
    parse_policy,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

LENGTHS = st.integers(1, 20)
SHARES = st.floats(0, 1)
NATS = st.floats(0, 15)
SECONDS = st.floats(0, 0.1)
PROPOSALS = st.builds(
    Proposal,
    st.integers(0, 9),
    SHARES | st.just(math.nan),
    NATS | st.just(math.nan),
    SHARES,
    st.sampled_from(["", "lookup", "model"]),
    SECONDS | st.just(math.nan),
    st.booleans(),
)
DRAFTS = st.lists(PROPOSALS, max_size=25)


@dataclass(frozen=True)
class Rule:
    """A policy with a threshold.

    Attributes:
        make: from threshold and longest draft.
        word: on the command line.
        thresholds: all that are allowed.
        proposal: from the measure the rule goes by; all others are those of a certain token.
        stricter: whether a higher threshold stops sooner.
    """

    make: Callable[[float, int], Policy]
    word: str
    thresholds: st.SearchStrategy[float]
    proposal: Callable[[float], Proposal]
    stricter: bool


RULES = {
    "confidence": Rule(Confidence, "confidence", SHARES, lambda measure: Proposal(1, measure), stricter=True),
    "entropy": Rule(Entropy, "entropy", NATS, lambda measure: Proposal(1, 1.0, entropy=measure), stricter=False),
    "margin": Rule(Margin, "margin", SHARES, lambda measure: Proposal(1, 1.0, margin=measure), stricter=True),
}
OUTCOMES = st.builds(
    Outcome,
    st.lists(PROPOSALS, max_size=6).map(tuple),
    st.integers(0, 6),
    st.integers(1, 7),
    st.none() | st.floats(0, 5),
)


def experienced(longest: int, outcomes: Sequence[Outcome]) -> CostAware:
    policy = CostAware(longest)
    for outcome in outcomes:
        policy.learn(outcome)
    return policy


POLICIES: dict[str, st.SearchStrategy[Policy]] = {
    "fixed": st.builds(FixedLength, LENGTHS),
    "cost-aware": st.builds(experienced, LENGTHS, st.lists(OUTCOMES, max_size=8)),
    **{name: st.builds(rule.make, rule.thresholds, LENGTHS) for name, rule in RULES.items()},
}

every_policy = pytest.mark.parametrize("name", POLICIES)


@pytest.fixture(scope="module", params=RULES)
def rule(request: pytest.FixtureRequest) -> Rule:
    """Each policy with a threshold in turn."""
    return RULES[request.param]


def drafted(policy: Policy, draft: Sequence[Proposal]) -> int | None:
    """How many tokens are drafted before the policy stops, or None if it wants more than there are."""
    return next((length for length in range(len(draft) + 1) if policy.enough(draft[:length])), None)


# Every policy ---------------------------------------------------------------------------------------------------------


@every_policy
@given(data=st.data(), draft=DRAFTS)
def test_every_policy_drafts_one_token_at_least_and_the_longest_draft_at_most(
    name: str, data: st.DataObject, draft: list[Proposal]
) -> None:
    policy = data.draw(POLICIES[name])
    length = drafted(policy, draft)
    assert length is None or 1 <= length <= policy.max_draft
    assert length is not None or len(draft) < policy.max_draft


@every_policy
@given(data=st.data(), draft=DRAFTS)
def test_every_policy_stays_with_its_word_beyond_the_longest_draft(
    name: str, data: st.DataObject, draft: list[Proposal]
) -> None:
    policy = data.draw(POLICIES[name])
    assume(len(draft) >= policy.max_draft)
    assert policy.enough(draft)


@every_policy
@given(data=st.data())
def test_every_policy_is_read_back_from_what_it_is_written_as(name: str, data: st.DataObject) -> None:
    policy = data.draw(POLICIES[name])
    fields = getattr(policy, "__struct_fields__", ("max_draft",))
    read = parse_policy(":".join([name, *(str(getattr(policy, field)) for field in fields)]))
    assert type(read) is type(policy)
    assert all(getattr(read, field) == getattr(policy, field) for field in fields)


@every_policy
@given(data=st.data(), draft=DRAFTS)
def test_every_policy_drafts_ahead_behind_nothing_and_says_yes_or_no(
    name: str, data: st.DataObject, draft: list[Proposal]
) -> None:
    policy = data.draw(POLICIES[name])
    assert policy.ahead([])
    assert policy.ahead(draft) in (True, False)


@every_policy
@given(data=st.data(), outcome=OUTCOMES)
def test_every_policy_can_learn_from_every_outcome(name: str, data: st.DataObject, outcome: Outcome) -> None:
    policy = data.draw(POLICIES[name])
    policy.learn(outcome)
    assert not policy.enough([])
    assert (policy.calibration is not None) == (name == "cost-aware")


# Every threshold ------------------------------------------------------------------------------------------------------


@given(data=st.data(), measures=st.lists(SHARES | NATS, min_size=1, max_size=12))
def test_threshold_stricter_never_drafts_more(rule: Rule, data: st.DataObject, measures: list[float]) -> None:
    low, high = sorted((data.draw(rule.thresholds), data.draw(rule.thresholds)))
    strict, lax = (high, low) if rule.stricter else (low, high)
    draft = [rule.proposal(measure) for measure in measures]
    shorter, longer = (drafted(rule.make(threshold, 12), draft) for threshold in (strict, lax))
    assert longer is None or (shorter is not None and shorter <= longer)


def test_threshold_the_first_unsure_token_ends_the_draft_and_is_sent(rule: Rule) -> None:
    """Three tokens here; a token at the threshold is still a sure one."""
    policy = rule.make(0.6, 8)
    unsure, sure = (0.59, 0.61) if rule.stricter else (0.61, 0.59)
    draft = [rule.proposal(measure) for measure in (sure, 0.6, unsure, sure)]
    assert drafted(policy, draft) == 3


def test_threshold_looks_at_every_token(rule: Rule) -> None:
    """A verdict may leave extras of which any may be past it."""
    policy = rule.make(0.6, 8)
    unsure, sure = (rule.proposal(measure) for measure in ((0.1, 0.9) if rule.stricter else (0.9, 0.1)))
    assert not policy.enough([sure, sure, sure])
    assert policy.enough([unsure, sure, sure])
    assert policy.enough([sure, unsure, sure])


def test_threshold_drafts_ahead_whatever_was_drafted(rule: Rule) -> None:
    assert rule.make(0.6, 8).ahead([rule.proposal(measure) for measure in (0.0, 1.0)])


def test_threshold_looks_at_its_own_measure_alone(rule: Rule) -> None:
    unsure, sure = Proposal(1, 0.0, 9.0, 0.0), Proposal(1, 1.0, 0.0, 1.0)
    assert not rule.make(0.5, 8).enough([replace(unsure, **{rule.word: getattr(sure, rule.word)})])
    assert rule.make(0.5, 8).enough([replace(sure, **{rule.word: getattr(unsure, rule.word)})])


def test_threshold_not_a_number_is_not_sure(rule: Rule) -> None:
    assert rule.make(0.5, 8).enough([rule.proposal(math.nan)])


def test_threshold_sure_forever_stops_at_the_longest_draft(rule: Rule) -> None:
    draft = [rule.proposal(1.0 if rule.stricter else 0.0)] * 10
    assert drafted(rule.make(0.5, 4), draft) == 4
    assert drafted(parse_policy(f"{rule.word}:0.5"), draft) == DEFAULT_MAX_DRAFT


@pytest.mark.parametrize("threshold", [-0.1, math.nan, math.inf, -math.inf])
def test_threshold_out_of_range_is_refused(rule: Rule, threshold: float) -> None:
    with pytest.raises(ValueError, match=f"threshold .*but {threshold} was given"):
        rule.make(threshold, 8)


@pytest.mark.parametrize("length", [0, -1])
def test_longest_draft_below_one_is_refused(rule: Rule, length: int) -> None:
    with pytest.raises(ValueError, match=f"longest draft is at least 1 token, but {length} was given"):
        rule.make(0.5, length)


# One policy each ------------------------------------------------------------------------------------------------------


def test_fixed_length_is_enough_at_its_length() -> None:
    policy = FixedLength(3)
    draft = [Proposal(1, 0.1)] * 5
    assert [policy.enough(draft[:length]) for length in range(5)] == [False, False, False, True, True]
    assert policy.max_draft == 3


@pytest.mark.parametrize("length", [0, -1])
def test_fixed_length_below_one_is_refused(length: int) -> None:
    with pytest.raises(ValueError, match=rf"at least 1 token, but {length} was given"):
        FixedLength(length)


@pytest.mark.parametrize("make", [Confidence, Margin])
def test_threshold_of_a_share_above_one_is_refused(make: type[Confidence | Margin]) -> None:
    with pytest.raises(ValueError, match=r"lies between 0 and 1, but 1\.1 was given"):
        make(1.1)


# The command line -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "policy"),
    [
        ("fixed:4", FixedLength(4)),
        (" fixed:1 ", FixedLength(1)),
        ("confidence:0.6", Confidence(0.6, DEFAULT_MAX_DRAFT)),
        ("confidence:0.6:12", Confidence(0.6, 12)),
        ("confidence:1", Confidence(1.0)),
        ("entropy:2.0", Entropy(2.0, DEFAULT_MAX_DRAFT)),
        ("entropy:2:12", Entropy(2.0, 12)),
        ("margin:0.2", Margin(0.2, DEFAULT_MAX_DRAFT)),
        ("margin:0.2:12", Margin(0.2, 12)),
    ],
)
def test_parse_policy_reads_what_it_shows(text: str, policy: Policy) -> None:
    assert parse_policy(text) == policy


@pytest.mark.parametrize(("text", "longest"), [("cost-aware", LONGEST), ("cost-aware:12", 12)])
def test_parse_policy_reads_the_default(text: str, longest: int) -> None:
    policy = parse_policy(text)
    assert isinstance(policy, CostAware)
    assert policy.max_draft == longest


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "'' is not known; write cost-aware or cost-aware:LONGEST"),
        ("cost-aware:", "'' should be a whole number"),
        ("cost-aware:0", "longest draft is at least 1 token, but 0"),
        ("cost-aware:8:2", "is not known"),
        ("fixed", "'fixed' is not known"),
        ("margins:2", "'margins:2' is not known"),
        ("fixed:4:5", "is not known"),
        ("entropy:1:2:3", "is not known"),
        ("fixed:four", "'four' should be a whole number"),
        ("fixed:0", "at least 1 token, but 0"),
        ("confidence:high", "'high' should be a number"),
        ("confidence:1.5", "between 0 and 1, but 1.5"),
        ("confidence:nan", "between 0 and 1, but nan"),
        ("confidence:0.5:", "'' should be a whole number"),
        ("entropy:-1", "from 0 on, but -1.0"),
        ("entropy:inf", "from 0 on, but inf"),
        ("margin:2", "between 0 and 1, but 2.0"),
        ("margin:0.5:0", "at least 1 token, but 0"),
    ],
)
def test_parse_policy_refuses_in_a_sentence(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        parse_policy(text)
