"""From a target alone to a measured drafter, and what is refused on the way."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest

from edge_agent.drafters.onnx import OnnxDrafter
from models.distill.distil import distil, frontier
from models.distill.options import Options
from models.distill.report import Report, describe
from models.error import ModelError
from tests.models.distill.targets import ARCHITECTURES, save_target
from tests.models.tiny import save_tokenizer

if TYPE_CHECKING:
    from pathlib import Path

SHORT = Options(texts=6, tokens=400, vocabulary=200, batch=4)


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny llama."""
    return save_target(tmp_path_factory.mktemp("models") / "tiny-llama", "llama")


def prompts(path: Path, texts: list[str]) -> Path:
    path.write_text(
        "".join(f'{{"id": {at}, "prompt": "{text}", "source": "s{at % 2}"}}\n' for at, text in enumerate(texts))
    )
    return path


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_target_alone_becomes_a_drafter(architecture: str, tmp_path: Path) -> None:
    target = save_target(tmp_path / "target", architecture)
    steps: list[str] = []
    out = tmp_path / "drafter"
    report = distil(target, out, SHORT, progress=lambda step, done, total: steps.append(step))
    best = report.drafters[0]
    assert best.folder == str(out)
    assert OnnxDrafter(out).propose([1, 2, 3]) is not None
    assert best.acceptance.tokens > 0
    assert [speed.round_trip_ms for speed in best.speeds] == [5, 20, 50, 100]
    assert report.tokens >= 400
    assert report.curve[-1].tokens == report.tokens
    assert {"Writing answers", "Training"} <= set(steps)
    assert any("held-out" in step for step in steps)
    assert "mean accepted length" in describe(report)
    assert msgspec.json.decode((out / "report.json").read_bytes(), type=Report) == report
    assert "| Seed | 0 |" in (out / "README.md").read_text()


def test_a_killed_run_goes_on(target: Path, tmp_path: Path) -> None:
    out = tmp_path / "drafter"

    def kill(step: str, done: int, total: int | None) -> None:
        if step.startswith("Training:"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        distil(target, out, SHORT, progress=kill)
    assert not out.exists()
    written = (tmp_path / "drafter.training" / "texts.jsonl").read_bytes()
    distil(target, out, SHORT)
    assert (tmp_path / "drafter.training" / "texts.jsonl").read_bytes() == written
    assert OnnxDrafter(out).propose([1]) is not None
    with pytest.raises(ModelError, match="was begun with tokens 200, not 100"):
        distil(target, out, msgspec.structs.replace(SHORT, vocabulary=100))


def test_evaluation_prompts_are_not_trained_on(target: Path, tmp_path: Path) -> None:
    training = prompts(tmp_path / "training.jsonl", ["apple", "pear", "plum", "fig"])
    evaluation = prompts(tmp_path / "evaluation.jsonl", ["Plum ", "cherry"])
    options = msgspec.structs.replace(SHORT, prompts=training, evaluation=evaluation, layers=(0,))
    report = distil(target, tmp_path / "drafter", options)
    assert report.texts == 2  # and one held out
    assert report.layers == (0,)
    assert set(report.drafters[0].by_source) == {"s0", "s1"}
    (warning,) = report.warnings
    assert warning.startswith("1 of the 4 training prompts are among the 2 evaluation prompts")
    assert warning in describe(report)


def test_evaluation_on_the_training_prompts_is_refused(target: Path, tmp_path: Path) -> None:
    both = prompts(tmp_path / "prompts.jsonl", ["apple", "pear"])
    with pytest.raises(ModelError, match=r"All 2 prompts .* cannot be judged by what it was trained on"):
        distil(target, tmp_path / "out", msgspec.structs.replace(SHORT, prompts=both, evaluation=both))


def test_given_answers_are_trained_on(target: Path, tmp_path: Path) -> None:
    asked = prompts(tmp_path / "prompts.jsonl", ["apple", "pear", "plum"])
    answers = tmp_path / "answers.jsonl"
    answers.write_text(
        '{"id": 0, "answer": "red"}\n{"id": 2, "answer": "blue", "finished": false}\n{"id": 9, "answer": "x"}\n'
    )
    report = distil(target, tmp_path / "out", msgspec.structs.replace(SHORT, prompts=asked, answers=answers))
    assert report.texts == 1  # and the other one held out
    with pytest.raises(ModelError, match="without the prompts"):
        distil(target, tmp_path / "two", msgspec.structs.replace(SHORT, answers=answers))


def test_another_folder_is_not_replaced(target: Path, tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("x")
    with pytest.raises(ModelError, match="is no drafter made here"):
        distil(target, tmp_path, SHORT)


def test_students_of_several_sizes_share_texts(target: Path, tmp_path: Path) -> None:
    one, two = frontier(target, tmp_path / "sizes", SHORT, students=[1, (0, 1)])
    assert (one.layers, two.layers) == ((0,), (0, 1))
    assert one.tokens == two.tokens
    assert two.drafters[0].size > one.drafters[0].size
    assert OnnxDrafter(tmp_path / "sizes" / "2-layers").propose([1]) is not None
    assert (tmp_path / "sizes.training" / "texts.jsonl").is_file()


def test_a_target_that_cannot_be_exported_is_refused_before_the_training(tmp_path: Path) -> None:
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(vocab_size=320, n_embd=32, n_layer=2, n_head=2, n_positions=200, eos_token_id=256)
    GPT2LMHeadModel(config).save_pretrained(str(tmp_path / "gpt2"))
    save_tokenizer(tmp_path / "gpt2")
    steps: list[str] = []
    with pytest.raises(ModelError, match="cannot be exported to ONNX"):
        distil(tmp_path / "gpt2", tmp_path / "out", SHORT, progress=lambda step, done, total: steps.append(step))
    assert "Training" not in steps
    assert not (tmp_path / "out").exists()
