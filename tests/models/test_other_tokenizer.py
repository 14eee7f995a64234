"""The stand-in for a published drafter with another tokenizer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from edge_agent.tokenizer import ChatTokenizer
from tests.edge_agent.drafters.kinds import torch_logits
from tests.edge_agent.drafters.small_tokenizers import CORPUS, gpt2
from tests.models.other_tokenizer import save_with_other_tokenizer
from tests.models.tiny import VOCAB, save_llama

if TYPE_CHECKING:
    from pathlib import Path


def test_save_with_other_tokenizer_cuts_finer_and_computes_the_same(tmp_path: Path) -> None:
    """Logits of the same text, cut alike, are the same; the tokens in both vocabularies have moved."""
    model = tmp_path / "model"
    model.mkdir()
    save_llama(model)
    gpt2(VOCAB, specials=["<end>"]).save(str(model / "tokenizer.json"))
    other = save_with_other_tokenizer(model, tmp_path / "other", merges=20)
    before, after = ChatTokenizer.load(model), ChatTokenizer.load(other)
    assert after.vocab_size == 256 + 1 + 20 < before.vocab_size
    assert len(after.encode_text(CORPUS[0])) > len(before.encode_text(CORPUS[0]))
    assert after.decode(after.encode_text(CORPUS[0])) == CORPUS[0]

    letters = "xqzw"
    old, new = before.encode_text(letters), after.encode_text(letters)
    assert len(old) == len(new) == len(letters)
    assert old != new
    was, now = torch_logits(model)(old), torch_logits(other)(new)
    for letter in "abcdef":
        (one,), (two,) = before.encode_text(letter), after.encode_text(letter)
        assert now[two] == pytest.approx(was[one], abs=1e-4)
    assert not np.allclose(was[: len(now)], now)
