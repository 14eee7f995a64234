"""When a draft is long enough."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.policy import DEFAULT_MAX_DRAFT, Confidence, FixedLength, parse_policy

CONFIDENCES = st.lists(st.floats(0, 1), max_size=20)


def test_fixed_length_is_enough_at_its_length() -> None:
    policy = FixedLength(3)
    assert [policy.enough([0.1] * drafted) for drafted in range(5)] == [False, False, False, True, True]
    assert policy.max_draft == 3


def test_confidence_stops_with_the_first_unsure_token_which_is_sent() -> None:
    """The unsure token is the last of the draft: three tokens here."""
    policy = Confidence(0.6)
    assert not policy.enough([0.9])
    assert not policy.enough([0.9, 0.6])
    assert policy.enough([0.9, 0.6, 0.59])


def test_confidence_first_token_unsure_still_drafts_it() -> None:
    assert not Confidence(1.0).enough([])
    assert Confidence(1.0).enough([0.999])


def test_confidence_sure_forever_stops_at_the_longest_draft() -> None:
    policy = Confidence(0.0, max_draft=4)
    assert not policy.enough([1.0] * 3)
    assert policy.enough([1.0] * 4)


def test_confidence_not_a_number_is_not_sure() -> None:
    assert Confidence(0.5).enough([math.nan])


@given(confidences=CONFIDENCES, threshold=st.floats(0, 1), longest=st.integers(1, 20))
def test_confidence_never_goes_beyond_the_longest_draft(
    confidences: list[float], threshold: float, longest: int
) -> None:
    policy = Confidence(threshold, longest)
    drafted = next((n for n in range(len(confidences) + 1) if policy.enough(confidences[:n])), None)
    assert drafted is None or 1 <= drafted <= longest
    assert drafted is not None or len(confidences) < longest


@pytest.mark.parametrize("length", [0, -1])
def test_policy_length_below_one_is_refused(length: int) -> None:
    with pytest.raises(ValueError, match=rf"at least 1 token, but {length} was given"):
        FixedLength(length)
    with pytest.raises(ValueError, match="longest draft is at least 1"):
        Confidence(0.5, length)


@pytest.mark.parametrize("threshold", [-0.1, 1.1, math.nan, math.inf])
def test_confidence_threshold_out_of_range_is_refused(threshold: float) -> None:
    with pytest.raises(ValueError, match="lies between 0 and 1"):
        Confidence(threshold)


@pytest.mark.parametrize(
    ("text", "policy"),
    [
        ("fixed:4", FixedLength(4)),
        (" fixed:1 ", FixedLength(1)),
        ("confidence:0.6", Confidence(0.6, DEFAULT_MAX_DRAFT)),
        ("confidence:0.6:12", Confidence(0.6, 12)),
        ("confidence:1", Confidence(1.0)),
    ],
)
def test_parse_policy_reads_what_it_shows(text: str, policy: FixedLength | Confidence) -> None:
    assert parse_policy(text) == policy


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "'' is not known; write fixed:LENGTH"),
        ("fixed", "'fixed' is not known"),
        ("entropy:2", "'entropy:2' is not known"),
        ("fixed:4:5", "is not known"),
        ("fixed:four", "'four' should be a whole number"),
        ("fixed:0", "at least 1 token, but 0"),
        ("confidence:high", "'high' should be a number from 0 to 1"),
        ("confidence:1.5", "between 0 and 1, but 1.5"),
        ("confidence:nan", "between 0 and 1, but nan"),
        ("confidence:0.5:", "'' should be a whole number"),
    ],
)
def test_parse_policy_refuses_in_a_sentence(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        parse_policy(text)
