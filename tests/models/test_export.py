"""An exported drafter is the model it was made from."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from edge_agent.drafters.onnx import OnnxDrafter
from edge_agent.tokenizer import ChatTokenizer
from models.error import ModelError
from models.export import export_drafter
from tests.models.tiny import LONGEST, VOCAB, save_llama

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny llama."""
    return save_llama(tmp_path_factory.mktemp("models") / "llama")


@pytest.fixture(scope="module")
def exported(llama: Path) -> Path:
    """Its export in float32."""
    steps: list[str] = []
    out = export_drafter(
        llama, llama.parent / "drafter", precision="fp32", progress=lambda step, done, total: steps.append(step)
    )
    assert {"Exporting llama to ONNX (fp32)", "Trying the drafter"} <= set(steps)
    return out


def test_export_drafts_what_the_model_writes(llama: Path, exported: Path) -> None:
    """Greedy tokens and their probabilities, cache in place and copied, through rollbacks and beyond one chunk."""
    import torch
    from transformers import LlamaForCausalLM

    model = LlamaForCausalLM.from_pretrained(str(llama))
    shared, copied = OnnxDrafter(exported), OnnxDrafter(exported, share=False)
    assert shared.shared_cache
    assert (shared.vocab_size, shared.context_length) == (VOCAB, LONGEST)
    long = torch.randint(0, VOCAB, (530,), generator=torch.Generator().manual_seed(1)).tolist()
    for sequence in (long[:5], long, [*long, 7], [*long[:300], 1, 2], [3]):
        with torch.no_grad():
            chances = model(torch.tensor([sequence])).logits[0, -1].softmax(-1)
        proposal = shared.propose(sequence)
        assert proposal.token == int(chances.argmax())
        assert proposal.confidence == pytest.approx(float(chances.max()), abs=1e-4)
        assert copied.propose(sequence) == proposal


def test_export_keeps_the_tokenizer_to_the_byte(llama: Path, exported: Path) -> None:
    assert (exported / "tokenizer.json").read_bytes() == (llama / "tokenizer.json").read_bytes()
    assert ChatTokenizer.load(exported).canonical_json == ChatTokenizer.load(llama).canonical_json


def test_export_again_reuses_what_is_there(llama: Path, exported: Path) -> None:
    before = (exported / "model.onnx").stat().st_mtime_ns
    assert export_drafter(llama, exported, precision="fp32") == exported
    assert (exported / "model.onnx").stat().st_mtime_ns == before


def test_export_damaged_is_made_again(llama: Path, exported: Path, tmp_path: Path) -> None:
    out = tmp_path / "drafter"
    shutil.copytree(exported, out)
    (out / "model.onnx.data").write_bytes(b"damaged")
    export_drafter(llama, out, precision="fp32")
    assert OnnxDrafter(out).propose([1]) == OnnxDrafter(exported).propose([1])


def test_export_over_something_else_is_refused(llama: Path) -> None:
    with pytest.raises(ModelError, match="exists and is no exported drafter"):
        export_drafter(llama, llama)


def test_export_of_unknown_architecture_shows_the_builder_s_words_and_leaves_nothing(
    llama: Path, tmp_path: Path
) -> None:
    strange = tmp_path / "strange"
    shutil.copytree(llama, strange)
    config = (strange / "config.json").read_text().replace("LlamaForCausalLM", "NobodyForCausalLM")
    (strange / "config.json").write_text(config)
    with pytest.raises(ModelError, match=r"(?s)strange cannot be exported to ONNX.*It said:\n.*not"):
        export_drafter(strange, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["strange"]
