"""What the agent relies on, of every drafter there is."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.drafters.drafter import Proposal, SequenceError
from schemas.messages import GREEDY, Sampling
from tests.edge_agent.drafters.kinds import KINDS, Case
from tests.edge_agent.drafters.tiny_decoder import VOCAB

if TYPE_CHECKING:
    from collections.abc import Iterator

    from edge_agent.drafters.drafter import Drafter

TOKENS = st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=12)
REPEATED = st.builds(lambda tokens, times: tokens * times, st.lists(st.integers(0, 5), min_size=1), st.integers(1, 3))
STEPS = st.lists(st.tuples(st.integers(0, 20), TOKENS | REPEATED), min_size=1, max_size=8)
SAMPLINGS = st.builds(
    Sampling,
    temperature=st.floats(0.1, 3),
    top_k=st.sampled_from([0, 1, 5]),
    top_p=st.sampled_from([1.0, 0.7]),
    seed=st.integers(0, 2**63 - 1),
)


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Tiny models are slower on many threads, and much slower where other tests want them too."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module", params=KINDS)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    """One drafter of each kind."""
    return KINDS[request.param](tmp_path_factory.mktemp(request.param))


@pytest.fixture
def drafter(case: Case) -> Drafter:
    """The drafter of the case."""
    return case.drafter


def expect(case: Case, tokens: list[int], sampling: Sampling = GREEDY, position: int = 0) -> None:
    """Compare a proposal with what a plain computation from scratch gives."""
    proposal = case.drafter.propose(tokens, sampling, position)
    found = case.looked_up(tokens)
    chosen = case.chosen(tokens, sampling, position) if found is None else None
    if chosen is not None:
        assert proposal is not None
        assert proposal.token == chosen.token
        measures = (proposal.confidence, proposal.entropy, proposal.margin)
        assert measures == pytest.approx((chosen.confidence, chosen.entropy, chosen.margin), abs=1e-3)
    else:
        assert (proposal.token if proposal else None) == found
    if proposal is not None:
        check_measures(proposal)
        name = case.drafter.name
        assert proposal.source in (name, *name.split("+")), "confidences are calibrated per source"
        assert len(proposal.weights) == (8 if found is None else 0), "and per model, if it is one's"


def check_measures(proposal: Proposal) -> None:
    """Probabilities, and an entropy, in float32."""
    assert -1e-6 <= proposal.margin <= 1 + 1e-6
    assert 0 <= proposal.confidence <= 1 + 1e-6
    assert proposal.entropy >= 0


def test_says_what_it_is(case: Case, drafter: Drafter) -> None:
    assert drafter.name
    assert drafter.vocab_size == case.vocab_size
    assert drafter.context_length == (case.context_length or 1 << 30)


@settings(max_examples=40)
@given(steps=STEPS)
def test_propose_after_any_rollback_is_as_from_scratch(case: Case, steps: list[tuple[int, list[int]]]) -> None:
    """Keep some of the sequence, append something else, and draft."""
    sequence: list[int] = []
    for kept, appended in steps:
        sequence = sequence[:kept] + appended
        expect(case, sequence)


@settings(max_examples=40)
@given(tokens=TOKENS, sampling=SAMPLINGS, position=st.integers(0, 5000))
def test_propose_sampled_is_what_the_target_s_rule_says(
    case: Case, tokens: list[int], sampling: Sampling, position: int
) -> None:
    expect(case, tokens, sampling, position)
    expect(case, tokens, sampling, position)


def test_propose_greedy_depends_on_the_sequence_alone(drafter: Drafter) -> None:
    sequence = [3, 1, 4, 1, 5, 9, 3, 1, 4]
    first, *others = (drafter.propose(sequence, GREEDY, position) for position in (0, 0, 7))
    assert first is not None
    assert [other and other.token for other in others] == [first.token] * 2


def test_propose_continues_its_own_draft(case: Case, drafter: Drafter) -> None:
    sequence = [2, 7, 1, 8, 2, 7]
    for position in range(12):
        proposal = drafter.propose(sequence, GREEDY, position)
        if proposal is None:
            assert case.logits is None, "a model always has something to propose"
            return
        assert 0 <= proposal.token < drafter.vocab_size
        sequence.append(proposal.token)
        expect(case, sequence)


def test_propose_whole_context_then_one_more_is_refused(case: Case, drafter: Drafter) -> None:
    longest = case.context_length
    if longest is None:
        expect(case, [1, 2] * 5000)
        return
    sequence = [1] * longest
    expect(case, sequence)
    with pytest.raises(SequenceError, match=f"has {longest + 1} tokens, but .* at most {longest}"):
        drafter.propose([*sequence, 1])
    expect(case, sequence[:5])


@pytest.mark.parametrize(
    ("tokens", "complaint"), [([], "the sequence is empty"), ([1, 2, -1], "holds the token id -1")]
)
def test_propose_no_sequence_is_refused_and_the_drafter_goes_on(
    case: Case, drafter: Drafter, tokens: list[int], complaint: str
) -> None:
    expect(case, [1, 2, 3])
    with pytest.raises(SequenceError, match=complaint):
        drafter.propose(tokens)
    expect(case, [1, 2, 3, 1, 2])


def test_propose_on_another_thread_than_it_was_opened(case: Case) -> None:
    with ThreadPoolExecutor(1) as pool:
        pool.submit(expect, case, [4, 4, 4, 2, 4, 4]).result()
