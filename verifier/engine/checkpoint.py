"""Loading a target from a Hugging Face folder, with errors in plain words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from verifier.engine.errors import EngineError
from verifier.engine.refusal import refuse_architecture, refuse_generation_options

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedConfig, PreTrainedModel

DType: TypeAlias = Literal["float32", "bfloat16", "auto"]
"""`auto` is the checkpoint's own where that is one of the two, else float32 (which holds float16 exactly)."""

_UNSTATED_CONTEXT = 2048
"""Taken where a config states no length (bloom, mpt: they were trained on so many tokens)."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a target's configuration says about its tokens.

    Attributes:
        vocab_size: token ids lie in [0, vocab_size).
        context_length: the longest sequence, in tokens.
        end_tokens: every id that config.json or generation_config.json names as an end of text.
    """

    vocab_size: int
    context_length: int
    end_tokens: frozenset[int]


def load_model(folder: Path, *, dtype: DType, device: str, threads: int | None) -> PreTrainedModel:
    """Load a causal language model for inference.

    Args:
        folder: a Hugging Face folder (config.json, safetensors).
        dtype: what to compute in.
        device: a torch device, or `auto`: CUDA where there is one, else the CPU.
        threads: CPU threads for torch; None leaves torch's own choice.

    Raises:
        EngineError: the folder is missing or damaged, or the target is refused.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    config = _load_config(folder)
    refuse_architecture(config, AutoModelForCausalLM._model_mapping.get(type(config), None))
    try:
        model, report = AutoModelForCausalLM.from_pretrained(
            folder, config=config, dtype=_torch_dtype(dtype, config), local_files_only=True, output_loading_info=True
        )
    except Exception as error:
        raise EngineError(f"The target in {folder} cannot be loaded: {error}. Convert or download it again.") from error
    # transformers fills what a file lacks with random numbers and only logs it.
    lacking = sorted({str(key) for name in ("missing_keys", "mismatched_keys") for key in report[name]})
    if lacking:
        raise EngineError(
            f"The weights in {folder} lack {len(lacking)} tensors or hold them in another shape ({lacking[0]}, …); "
            "convert or download the target again."
        )
    return prepare(model, device)


def prepare(model: PreTrainedModel, device: str) -> PreTrainedModel:
    """Refuse what the engines cannot run, then move the model to `device` for inference (see `load_model`)."""
    refuse_architecture(model.config, type(model))
    refuse_generation_options(model.generation_config)
    name = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    try:
        return model.to(torch.device(name)).eval().requires_grad_(requires_grad=False)
    except (RuntimeError, AssertionError) as error:
        raise EngineError(f"The target cannot be moved to device '{name}': {error}.") from error


def limits(model: PreTrainedModel) -> Limits:
    """Read vocabulary, context length and end tokens from a model's configuration."""
    config = model.config.get_text_config()
    context = getattr(config, "max_position_embeddings", None) or _UNSTATED_CONTEXT
    ends: set[int] = set()
    for source in (model.generation_config, model.config, config):
        named = getattr(source, "eos_token_id", None)
        ends.update([named] if isinstance(named, int) else named or ())
    return Limits(int(config.vocab_size), int(context), frozenset(ends))


def rope_types(model: PreTrainedModel) -> set[str]:
    """Return the RoPE types of all rotary embeddings in a model."""
    found: set[str] = set()
    for module in model.modules():
        kind = getattr(module, "rope_type", None)
        if isinstance(kind, str):
            found.add(kind)
        elif isinstance(kind, dict):
            found.update(str(value) for value in kind.values())
    return found


def _load_config(folder: Path) -> PreTrainedConfig:
    if not folder.is_dir():
        raise EngineError(f"The target folder {folder} does not exist; pull the target first or correct the path.")
    if not (folder / "config.json").is_file():
        raise EngineError(f"{folder} has no config.json, so it is no Hugging Face model folder.")
    try:
        return AutoConfig.from_pretrained(folder, local_files_only=True)
    except Exception as error:
        raise EngineError(
            f"{folder}/config.json cannot be read: {error}. Convert or download the target again."
        ) from error


def _torch_dtype(dtype: DType, config: Any) -> torch.dtype:
    if dtype == "float32":
        return torch.float32
    if dtype == "bfloat16" or config.get_text_config().dtype in {torch.bfloat16, "bfloat16"}:
        return torch.bfloat16
    return torch.float32
