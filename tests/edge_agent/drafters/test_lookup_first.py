"""Prompt lookup in front of a model: who answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from edge_agent.drafters.lookup import PromptLookup
from edge_agent.drafters.lookup_first import LookupFirst
from edge_agent.drafters.onnx import OnnxDrafter
from schemas.messages import GREEDY
from tests.edge_agent.drafters.kinds import DECODER
from tests.edge_agent.drafters.tiny_decoder import LONGEST, PADDED

if TYPE_CHECKING:
    from pathlib import Path

    from edge_agent.drafters.drafter import Proposal

FOUND = [3, 4, 5, 6, 19, 1, 3, 4, 5, 6]
"""A match of four tokens, followed by 19, which the model would not say."""
SHORT = [3, 4, 19, 1, 3, 4]
"""A match of two."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> OnnxDrafter:
    """A tiny decoder."""
    return OnnxDrafter(DECODER.save(tmp_path_factory.mktemp("models") / "tiny", "fused"))


def drafter(model: OnnxDrafter, least: float = 0.6) -> LookupFirst:
    return LookupFirst(PromptLookup(), model, least_confidence=least)


def later(both: LookupFirst, sequence: list[int]) -> Proposal | None:
    """What is proposed where `sequence` is no prompt alone."""
    return both.propose(sequence, GREEDY, 1)


def test_propose_a_sure_match_spares_the_model(model: OnnxDrafter) -> None:
    proposal = later(drafter(model), FOUND)
    assert DECODER.greedy(FOUND)[0] != 19
    assert proposal == PromptLookup().propose(FOUND)
    assert proposal is not None
    assert proposal.source == "lookup"


@pytest.mark.parametrize("sequence", [SHORT, [5, 7, 9]], ids=["unsure match", "no match"])
def test_propose_otherwise_the_model_answers(model: OnnxDrafter, sequence: list[int]) -> None:
    proposal = later(drafter(model), sequence)
    assert proposal is not None
    assert (proposal.token, proposal.confidence) == pytest.approx(DECODER.greedy(sequence), abs=1e-4)
    assert proposal.source == model.name


def test_propose_the_threshold_decides(model: OnnxDrafter) -> None:
    tokens = [later(drafter(model, least), sequence) for least in (0.0, 1.0) for sequence in (SHORT, FOUND)]
    assert [proposal and proposal.token == 19 for proposal in tokens] == [True, True, False, False]
    found = PromptLookup().propose(FOUND)
    assert found is not None
    assert later(drafter(model, found.confidence), FOUND) == found, "the threshold itself is sure enough"


def test_propose_model_catches_up_with_what_it_was_spared(model: OnnxDrafter) -> None:
    both = drafter(model)
    assert later(both, [5, 7, 9]) is not None
    assert later(both, FOUND) is not None
    longer = [*FOUND, 19, 8]
    proposal = later(both, longer)
    assert proposal is not None
    assert (proposal.token, proposal.confidence) == pytest.approx(DECODER.greedy(longer), abs=1e-4)


def test_propose_match_outside_the_model_s_vocabulary_is_not_taken(tmp_path: Path) -> None:
    limited = OnnxDrafter(DECODER.save(tmp_path / "tiny", "fused"), vocab_limit=19)
    proposal = later(drafter(limited), FOUND)
    assert proposal is not None
    assert proposal.token < 19


def test_name_and_limits_are_the_model_s(model: OnnxDrafter) -> None:
    both = drafter(model)
    assert (both.name, both.vocab_size, both.context_length) == ("lookup+tiny", PADDED, LONGEST)
