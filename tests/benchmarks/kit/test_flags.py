"""Options that several measurements share."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

import pytest

from benchmarks.kit import flags
from benchmarks.kit.prompts import Prompt
from models import default
from tests.models.tiny import save_tokenizer

if TYPE_CHECKING:
    from pathlib import Path


def test_every_prompt_is_sampled_with_a_seed_of_its_own() -> None:
    options = argparse.Namespace(max_tokens=9, temperature=0.5, top_k=3, top_p=0.9, seed=40)
    asks = flags.asks(options, [Prompt("a"), Prompt("b")])
    assert [(ask.prompt, ask.seed, ask.id) for ask in asks] == [("a", 40, "prompt-0"), ("b", 41, "prompt-1")]
    assert {(ask.max_tokens, ask.temperature, ask.top_k, ask.top_p) for ask in asks} == {(9, 0.5, 3, 0.9)}


def test_numbers_out_of_range_are_refused() -> None:
    assert (flags.positive("1"), flags.natural("0")) == (1, 0)
    for read, text in ((flags.positive, "0"), (flags.natural, "-1"), (flags.positive, "x")):
        with pytest.raises(ValueError, match=r".+"):
            read(text)


def test_what_was_chosen_is_drafted_with_else_what_an_agent_would_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shipped, target = tmp_path / "shipped", tmp_path / "target"
    for folder in (shipped, target):
        folder.mkdir()
        save_tokenizer(folder)
    (shipped / "model.onnx").write_bytes(b"")
    monkeypatch.setattr(default, "SHIPPED", shipped)
    assert flags.find_drafters(["lookup", "here"], target) == ("lookup", "here")
    assert flags.find_drafters(None, target) == (f"lookup+{shipped}",)
