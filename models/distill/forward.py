"""Running a causal language model over texts with a common beginning, which is computed once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from models.distill.batches import Batch


def answer_states(model: PreTrainedModel, batch: Batch) -> torch.Tensor:
    """Return the final hidden states [positions that predict an answer token, d], text by text.

    Gradients flow through the common beginning too.
    """
    base: Any = model.base_model
    past = None
    if len(batch.prefix):
        past = base(input_ids=batch.prefix[None], use_cache=True).past_key_values
        past.batch_repeat_interleave(len(batch.ids))
    states: torch.Tensor = base(input_ids=batch.ids, past_key_values=past, use_cache=past is not None).last_hidden_state
    return states[batch.where]


def scaled(logits: torch.Tensor, model: PreTrainedModel) -> torch.Tensor:
    """Return what a model makes of the numbers that its head yields.

    Granite divides them, Cohere multiplies them and Gemma 2 bounds them, by what their configurations say. A bare head
    would teach other chances than the target has.
    """
    config = model.config.get_text_config()
    if divisor := getattr(config, "logits_scaling", None):
        logits = logits / divisor
    if factor := getattr(config, "logit_scale", None):
        logits = logits * factor
    if bound := getattr(config, "final_logit_softcapping", None):
        logits = bound * torch.tanh(logits / bound)
    return logits
