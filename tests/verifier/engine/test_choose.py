"""Choosing tokens from logits."""

from __future__ import annotations

import pytest
import torch

from verifier.engine.choose import choose_greedy
from verifier.engine.errors import EngineError


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("width", [1, 63, 64, 65, 211, 1024, 49152])
def test_the_largest_logit_wins_and_the_lowest_id_on_ties(width: int, dtype: torch.dtype) -> None:
    """Few distinct values make ties everywhere; a plain search is the reference."""
    logits = torch.randint(-3, 3, (40, width), generator=torch.Generator().manual_seed(width)).to(dtype)
    assert choose_greedy(logits) == [row.index(max(row)) for row in logits.tolist()]


@pytest.mark.parametrize("places", [(0, 210), (63, 64), (128, 191), (192, 210), (209, 210)])
def test_ties_across_blocks_go_to_the_lowest_id(places: tuple[int, int]) -> None:
    """Wherever the two lie."""
    logits = torch.full((1, 211), -5.0)
    logits[0, list(places)] = -1.0
    assert choose_greedy(logits) == [places[0]]


def test_minus_infinity_is_a_logit() -> None:
    """Masked ids are passed over."""
    logits = torch.full((1, 70), -torch.inf)
    logits[0, 66] = -1e30
    assert choose_greedy(logits) == [66]


@pytest.mark.parametrize("place", [0, 65, 69])
def test_nan_is_an_error_that_names_the_session(place: int) -> None:
    """Wherever it lies in the row."""
    logits = torch.zeros(3, 70)
    logits[1, place] = torch.nan
    with pytest.raises(EngineError, match=r"session 6262 .*row 1 of 3") as caught:
        choose_greedy(logits, [b"aa", b"bb", b"cc"])
    assert caught.value.session == b"bb"


def test_no_rows_choose_nothing() -> None:
    """An empty step is fine."""
    assert choose_greedy(torch.zeros(0, 70)) == []
