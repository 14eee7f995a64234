"""Prompts from a file, from nowhere, and to warm up with."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from benchmarks.kit.error import BenchError
from benchmarks.kit.prompts import BUILT_IN, Prompt, prompts_of, read_prompts, warm_up

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"id": 0, "prompt": "a", "source": "math"}\n\n{"prompt": "b"}\n{"prompt": "c"}\n')
    return path


def test_lines_are_read_with_their_source(file: Path) -> None:
    assert read_prompts(file, None) == [Prompt("a", "math"), Prompt("b"), Prompt("c")]


def test_limit_takes_the_first(file: Path) -> None:
    assert read_prompts(file, 2) == [Prompt("a", "math"), Prompt("b")]
    assert prompts_of(file, 1) == [Prompt("a", "math")]


def test_without_a_file_there_are_some(file: Path) -> None:
    assert prompts_of(None, None) == list(BUILT_IN)
    assert prompts_of(None, 2) == list(BUILT_IN[:2])


def test_warming_up_never_asks_what_is_measured() -> None:
    prompts = warm_up(20)
    assert len(prompts) == 20
    assert not set(prompts) & set(BUILT_IN)


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"", "no prompts"), (b'{"text": "a"}\n', "line 1"), (b'{"prompt": "a"}\nnot json\n', "line 2"), (b"\xff\n", "1")],
)
def test_file_that_is_none_is_refused_in_words(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_bytes(content)
    with pytest.raises(BenchError, match=words):
        read_prompts(path, None)


def test_file_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="nothing"):
        read_prompts(tmp_path / "nothing", None)


def test_a_prompt_nested_too_deeply_is_named(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"more":' + "[" * 9_000)
    with pytest.raises(BenchError, match="line 1 of"):
        read_prompts(path, None)
