"""Running a causal language model over texts with a common beginning, which is computed once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
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
