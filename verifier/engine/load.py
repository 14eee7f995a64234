"""Picking the engine for a target."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import torch

from verifier.engine.aside import aside
from verifier.engine.attention import NotPackableError
from verifier.engine.checkpoint import load_model
from verifier.engine.packed import PackedEngine
from verifier.engine.prepack import prepack, unpack
from verifier.engine.race import warm_up
from verifier.engine.sequential import SequentialEngine

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedModel

    from verifier.engine.checkpoint import DType
    from verifier.engine.engine import Engine

_log = logging.getLogger(__name__)


def load_engine(
    folder: Path,
    *,
    dtype: DType = "auto",
    device: str = "auto",
    kv_budget_bytes: int,
    threads: int | None = None,
) -> Engine:
    """Load a target and return the fastest engine that runs it exactly.

    Args:
        folder: a Hugging Face folder (config.json, safetensors, perhaps generation_config.json).
        dtype: what to compute in; `auto` is the checkpoint's own where that is float32 or bfloat16, else float32.
        device: a torch device, or `auto`: CUDA where there is one, else the CPU.
        kv_budget_bytes: memory for keys and values of all sessions.
        threads: CPU threads for torch; None leaves torch's own choice.

    Raises:
        EngineError: the folder is missing or damaged, the target is refused (recurrent state, encoder-decoder,
            options of generation_config not implemented), or the budget is too small.
    """

    def load() -> Engine:
        model = load_model(folder, dtype=dtype, device=device, threads=threads)
        return engine_for(model, kv_budget_bytes=kv_budget_bytes)

    if threads is not None:
        torch.set_num_threads(threads)  # a thread that has computed before keeps its own number
    return aside(load)


def engine_for(model: PreTrainedModel, *, kv_budget_bytes: int) -> Engine:
    """Return the engine for a model made ready by `checkpoint.prepare`, which it takes over."""
    if model.device.type == "cpu":
        warm_up()
    if prepack(model):
        try:
            return _engine_for(model, kv_budget_bytes)
        except (RuntimeError, NotImplementedError) as error:  # its code reads weights itself
            _log.warning("The target (%s) runs without prepacked weights: %s.", model.config.model_type, error)
            unpack(model)
    return _engine_for(model, kv_budget_bytes)


def _engine_for(model: PreTrainedModel, kv_budget_bytes: int) -> Engine:
    try:
        return PackedEngine(model, kv_budget_bytes=kv_budget_bytes)
    except NotPackableError as error:
        _log.warning(
            "The target (%s) runs one session at a time, because %s; steps take longer.",
            model.config.model_type,
            error,
        )
        return SequentialEngine(model, kv_budget_bytes=kv_budget_bytes)
