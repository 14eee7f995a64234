"""Loading targets, and refusing those that cannot be run exactly."""

from __future__ import annotations

import json
import threading
from typing import TYPE_CHECKING, Any

import pytest
from safetensors.torch import load_file, save_file
from transformers import AutoConfig

from verifier.engine import load
from verifier.engine.errors import EngineError
from verifier.engine.load import load_engine
from verifier.engine.packed import PackedEngine
from verifier.engine.segment import Segment
from verifier.engine.sequential import SequentialEngine
from verifier.numerics import numerics_fingerprint

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from transformers import PreTrainedModel

    from verifier.engine.engine import Engine


@pytest.fixture
def folder(tmp_path: Path, tiny: Callable[..., PreTrainedModel]) -> Path:
    """A llama saved as a Hugging Face folder."""
    tiny("llama").save_pretrained(tmp_path)
    return tmp_path


def _load(folder: Path, **options: Any) -> Engine:
    return load_engine(folder, device="cpu", kv_budget_bytes=1 << 20, **options)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "auto"])
def test_a_folder_is_loaded_and_runs(dtype: str, folder: Path) -> None:
    """Through load_engine, which picks the packed engine."""
    engine = _load(folder, dtype=dtype)
    assert isinstance(engine, PackedEngine)
    assert (engine.vocab_size, engine.context_length, engine.end_tokens) == (211, 256, frozenset({2}))
    assert len(engine.step([Segment(b"x", [5, 6, 7], 2)])[0]) == 2


def test_what_loading_computes_is_computed_on_a_thread_that_ends(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its team of OpenMP threads would slow down the thread that steps, if it stayed."""
    seen: list[threading.Thread] = []
    for name in ("load_model", "engine_for"):
        real = getattr(load, name)

        def watched(*arguments: Any, real: Callable[..., Any] = real, **options: Any) -> Any:
            seen.append(threading.current_thread())
            return real(*arguments, **options)

        monkeypatch.setattr(load, name, watched)
    _load(folder)
    assert len(seen) == 2
    assert threading.current_thread() not in seen
    assert not any(thread.is_alive() for thread in seen)


def test_a_target_that_cannot_be_packed_runs_in_turn(
    tmp_path: Path, tiny: Callable[..., PreTrainedModel], caplog: pytest.LogCaptureFixture
) -> None:
    """load_engine says so in the log; asking for the packed engine is an error."""
    tiny("bloom").save_pretrained(tmp_path)
    assert isinstance(_load(tmp_path), SequentialEngine)
    assert "one session at a time, because its class does not support" in caplog.text
    with pytest.raises(EngineError, match="cannot be run packed, because its class"):
        PackedEngine.load(tmp_path, device="cpu", kv_budget_bytes=1 << 20)


def test_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    """In words that name the path."""
    with pytest.raises(EngineError, match="nowhere does not exist"):
        _load(tmp_path / "nowhere")
    with pytest.raises(EngineError, match=r"no config\.json"):
        _load(tmp_path)


def test_damaged_weights_are_an_error(folder: Path) -> None:
    """A file cut short cannot be loaded."""
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(EngineError, match="cannot be loaded"):
        _load(folder)


def test_lacking_weights_are_an_error(folder: Path) -> None:
    """transformers would fill them with random numbers."""
    path = folder / "model.safetensors"
    tensors = load_file(path)
    del tensors["model.layers.2.mlp.up_proj.weight"]
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(EngineError, match=r"lack 1 tensors.*layers\.2\.mlp\.up_proj"):
        _load(folder)


def test_nan_weights_are_an_error(folder: Path) -> None:
    """Found by the trial forward at load time."""
    path = folder / "model.safetensors"
    tensors = load_file(path)
    tensors["model.norm.weight"].fill_(float("nan"))
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(EngineError, match="weights are damaged"):
        _load(folder)


@pytest.mark.parametrize("kind", ["mamba", "qwen3_next", "jamba", "falcon_h1", "rwkv", "lfm2", "minimax"])
def test_recurrent_state_is_refused(kind: str, tmp_path: Path) -> None:
    """By the configuration alone, before weights are read."""
    options = {"num_hidden_layers": 2, "layer_types": ["conv", "full_attention"]} if kind == "lfm2" else {}
    AutoConfig.for_model(kind, **options).save_pretrained(tmp_path)
    with pytest.raises(EngineError, match=f"architecture \\({kind}\\) carries state that cannot be rolled back"):
        _load(tmp_path)


def test_an_encoder_decoder_is_refused(tmp_path: Path) -> None:
    """SLED verifies causal language models."""
    AutoConfig.for_model("t5").save_pretrained(tmp_path)
    with pytest.raises(EngineError, match="encoder-decoder"):
        _load(tmp_path)


def test_a_bidirectional_model_is_refused(tmp_path: Path) -> None:
    """It has logits for the next token, but they depend on what follows."""
    AutoConfig.for_model("bert").save_pretrained(tmp_path)
    with pytest.raises(EngineError, match="not configured as a decoder"):
        _load(tmp_path)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("repetition_penalty", 1.1),
        ("min_length", 5),
        ("min_new_tokens", 2),
        ("no_repeat_ngram_size", 3),
        ("suppress_tokens", [4]),
        ("begin_suppress_tokens", [4]),
        ("forced_eos_token_id", 2),
        ("bad_words_ids", [[4]]),
        ("num_beams", 4),
    ],
)
def test_options_not_implemented_are_refused(option: str, value: object, folder: Path) -> None:
    """The error names the option."""
    _set(folder, option, value)
    with pytest.raises(EngineError, match=f"sets {option}="):
        _load(folder)


def test_neutral_options_and_those_of_the_request_are_fine(folder: Path) -> None:
    """What a request sets itself is no property of the target."""
    for option, value in (
        ("repetition_penalty", 1.0),
        ("no_repeat_ngram_size", 0),
        ("do_sample", True),
        ("temperature", 0.7),
        ("top_k", 20),
        ("top_p", 0.8),
        ("max_length", 40),
    ):
        _set(folder, option, value)
    _load(folder)


def test_a_fingerprint_names_all_that_decides_the_last_bits(folder: Path) -> None:
    """Weights, configuration, dtype and device kind; not the device's number or the folder's name."""
    first = numerics_fingerprint(folder, "bfloat16", "cuda:0")
    assert len(first) == 16
    assert int(first, 16) >= 0
    assert numerics_fingerprint(folder, "bfloat16", "cuda:1") == first
    seen = {first, numerics_fingerprint(folder, "float32", "cuda"), numerics_fingerprint(folder, "bfloat16", "cpu")}
    path = folder / "config.json"
    path.write_text(path.read_text() + "\n")
    seen.add(numerics_fingerprint(folder, "bfloat16", "cuda"))
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    seen.add(numerics_fingerprint(folder, "bfloat16", "cuda"))
    assert len(seen) == 5
    weights.unlink()
    with pytest.raises(FileNotFoundError, match="no weight file"):
        numerics_fingerprint(folder, "bfloat16", "cuda")


def _set(folder: Path, option: str, value: object) -> None:
    path = folder / "generation_config.json"
    options = json.loads(path.read_text())
    options[option] = value
    path.write_text(json.dumps(options))
