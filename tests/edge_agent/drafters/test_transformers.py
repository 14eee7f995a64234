"""The torch drafter: what it loads, what it refuses, and its cache."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from edge_agent.drafters.drafter import DrafterError
from edge_agent.drafters.transformers import TransformersDrafter
from schemas.choice import choose
from schemas.messages import GREEDY
from tests.edge_agent.drafters.kinds import torch_logits
from tests.models.tiny import LONGEST, VOCAB, save_llama

if TYPE_CHECKING:
    from pathlib import Path

    from edge_agent.drafters.transformers import DType


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny llama."""
    folder = tmp_path_factory.mktemp("models") / "llama"
    folder.mkdir()
    return save_llama(folder)


@pytest.fixture
def damaged(llama: Path, tmp_path: Path) -> Path:
    """A copy that tests may damage."""
    return shutil.copytree(llama, tmp_path / "damaged")


def test_propose_long_prompt_is_chunked_and_rolled_back(llama: Path) -> None:
    drafter, logits = TransformersDrafter(llama, device="cpu"), torch_logits(llama)
    sequence = np.random.default_rng(5).integers(0, VOCAB, 590).tolist()
    for tokens in (sequence, [*sequence[:300], 1, 2], [9], [*sequence[:300], 1, 2, 3]):
        expected = choose(logits(tokens), GREEDY, 0)
        proposal = drafter.propose(tokens)
        assert (proposal.token, proposal.confidence) == pytest.approx((expected.token, expected.confidence), abs=1e-4)


def test_propose_computes_only_what_is_new(llama: Path) -> None:
    drafter = TransformersDrafter(llama, device="cpu")
    seen: list[int] = []
    drafter._model.register_forward_pre_hook(
        lambda _model, _args, named: seen.append(named["input_ids"].shape[1]), with_kwargs=True
    )
    for tokens in ([1, 2, 3, 4], [1, 2, 3, 4, 5], [1, 2, 3, 4, 5], [1, 2, 9, 9, 9]):
        drafter.propose(tokens)
    assert seen == [4, 1, 1, 3]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_propose_in_half_precision(llama: Path, dtype: DType) -> None:
    drafter, logits = TransformersDrafter(llama, device="cpu", dtype=dtype), torch_logits(llama)
    for tokens in ([1, 2, 3, 4], [1, 2, 7], [1, 2, 7, 5, 5]):
        expected = logits(tokens)
        proposal = drafter.propose(tokens)
        assert expected[proposal.token] > expected.max() - 0.1 * abs(expected).max()


def test_name_and_limits_are_the_model_s(llama: Path) -> None:
    before = torch.get_num_threads()
    try:
        drafter = TransformersDrafter(llama, threads=1, vocab_limit=300)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)
    assert (drafter.name, drafter.vocab_size, drafter.context_length) == ("llama", 300, LONGEST)


def test_propose_unknown_token_is_refused_and_the_drafter_goes_on(llama: Path) -> None:
    drafter = TransformersDrafter(llama, device="cpu")
    first = drafter.propose([1, 2, 3])
    with pytest.raises(DrafterError, match=f"knows {VOCAB} token ids, but the sequence holds {VOCAB}; use a drafter"):
        drafter.propose([1, 2, VOCAB])
    assert drafter.propose([1, 2, 3]).token == first.token


def test_propose_after_a_failed_run_begins_anew(llama: Path) -> None:
    """The second layer fails once, when the first one has already taken the tokens in."""
    drafter = TransformersDrafter(llama, device="cpu")
    first = drafter.propose([1, 2, 3])

    def out_of_memory(*_: Any) -> None:
        raise torch.OutOfMemoryError("Tried to allocate 2 GiB.\nThe rest of the story")

    hook = drafter._model.model.layers[1].register_forward_pre_hook(out_of_memory)
    with pytest.raises(DrafterError, match=r"failed on 5 tokens: Tried to allocate 2 GiB\. Check that its device"):
        drafter.propose([1, 2, 3, 4, 5])
    hook.remove()
    assert drafter.propose([1, 2, 3]) == first


def test_propose_with_damaged_weights_is_an_error(damaged: Path) -> None:
    weights = load_file(damaged / "model.safetensors")
    weights["model.norm.weight"][3] = torch.nan
    save_file(weights, damaged / "model.safetensors", {"format": "pt"})
    drafter = TransformersDrafter(damaged, device="cpu")
    with pytest.raises(DrafterError, match=r"damaged computed nothing to choose from\. The highest logit is nan"):
        drafter.propose([1])


def test_load_missing_folder_names_it(tmp_path: Path) -> None:
    with pytest.raises(DrafterError, match=r"nowhere has no config\.json"):
        TransformersDrafter(tmp_path / "nowhere")


def test_load_truncated_weights_is_an_error(damaged: Path) -> None:
    whole = (damaged / "model.safetensors").read_bytes()
    (damaged / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DrafterError, match=r"damaged cannot be loaded: .*Copy its folder again"):
        TransformersDrafter(damaged)


def test_load_lacking_weights_is_an_error(damaged: Path) -> None:
    """Transformers would make up what is missing."""
    weights = load_file(damaged / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, damaged / "model.safetensors", {"format": "pt"})
    with pytest.raises(DrafterError, match=r"lack 1 tensors .*layers\.1\.mlp\.up_proj\.weight"):
        TransformersDrafter(damaged)


@pytest.mark.parametrize("change", [{"model_type": "nobody"}, {"model_type": "bert", "architectures": []}])
def test_load_of_something_else_is_an_error(damaged: Path, change: dict[str, object]) -> None:
    config = json.loads((damaged / "config.json").read_text())
    (damaged / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(DrafterError, match="damaged"):
        TransformersDrafter(damaged)


def test_load_unknown_device_is_an_error(llama: Path) -> None:
    with pytest.raises(DrafterError, match=r"llama cannot be loaded: .*device"):
        TransformersDrafter(llama, device="toaster")


@pytest.mark.parametrize("kind", ["Mamba", "Rwkv", "Lfm2"])
def test_load_model_with_recurrent_state_is_refused(tmp_path: Path, kind: str) -> None:
    import transformers

    sizes = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 32}
    attention = {"num_attention_heads": 2, "num_key_value_heads": 1, "bos_token_id": 1, "pad_token_id": 0}
    mixed = {"layer_types": ["conv", "full_attention"]} if kind == "Lfm2" else {}
    config = getattr(transformers, f"{kind}Config")(**sizes, **attention, **mixed)
    getattr(transformers, f"{kind}ForCausalLM")(config).save_pretrained(str(tmp_path / kind))
    with pytest.raises(DrafterError, match=rf"{kind} .*use a plain decoder|{kind} cannot draft"):
        TransformersDrafter(tmp_path / kind, device="cpu")


def test_other_drafters_import_no_torch() -> None:
    """A device without torch reads the command line and drafts all the same."""
    code = "import sys; import edge_agent.drafters.spec, edge_agent.drafters.onnx; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
