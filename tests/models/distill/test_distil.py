"""What is refused before hours of work, and work on a GPU."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from edge_agent.drafters.onnx import OnnxDrafter
from models.distill.distil import distil, frontier
from models.distill.options import Options
from models.error import ModelError
from tests.models.tiny import save_tokenizer

if TYPE_CHECKING:
    from pathlib import Path

SHORT = Options(texts=6, tokens=400, vocabulary=200, batch=4)


def test_another_folder_is_not_replaced(llama: Path, tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("x")
    with pytest.raises(ModelError, match="is no drafter made here"):
        distil(llama, tmp_path, SHORT)


@pytest.mark.parametrize("layers", [0, 3, (1, 0), (0, 2), ()])
def test_layers_are_checked_before_anything_is_written(
    llama: Path, tmp_path: Path, layers: int | tuple[int, ...]
) -> None:
    with pytest.raises(ModelError, match=r"cannot be cut from a target of 2|are not some of the target's 2"):
        frontier(llama, tmp_path / "out", SHORT, students=[layers])
    assert not list(tmp_path.iterdir())


def test_two_students_of_a_size_are_refused(llama: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="as many layers"):
        frontier(llama, tmp_path / "out", SHORT, students=[1, (1,)])


def test_a_target_that_cannot_be_exported_is_refused_before_the_training(tmp_path: Path) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(vocab_size=320, n_embd=32, n_layer=2, n_head=2, n_positions=200, eos_token_id=256)
    GPT2LMHeadModel(config).save_pretrained(str(tmp_path / "gpt2"))
    save_tokenizer(tmp_path / "gpt2")
    steps: list[str] = []
    with pytest.raises(ModelError, match=r"No drafter can be made of .*gpt2: .*cannot be exported to ONNX"):
        distil(tmp_path / "gpt2", tmp_path / "out", SHORT, progress=lambda step, done, total: steps.append(step))
    assert "Training" not in steps
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_on_a_gpu(llama: Path, tmp_path: Path, dtype: str) -> None:
    options = Options(texts=6, tokens=400, vocabulary=200, batch=4, device="cuda", dtype=dtype)  # type: ignore[arg-type]
    report = distil(llama, tmp_path / "drafter", options)
    assert report.tokens >= 400
    assert OnnxDrafter(tmp_path / "drafter").propose([1]) is not None
