"""Tiny targets with random weights, one of every architecture the engine is tested with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from transformers import PreTrainedModel

_COMMON: dict[str, Any] = {
    "vocab_size": 211,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "head_dim": 16,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_OWN_NAMES: dict[str, Any] = {
    "vocab_size": 211,
    "n_embd": 64,
    "hidden_size": 64,
    "n_layer": 4,
    "n_head": 4,
    "n_positions": 256,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_SPECIAL: dict[str, dict[str, Any]] = {
    "opt": {"ffn_dim": 96, "word_embed_proj_dim": 64},
    "mistral": {"sliding_window": 8},
    "gemma2": {"sliding_window": 8, "query_pre_attn_scalar": 16},
    "gemma3_text": {"sliding_window": 8, "query_pre_attn_scalar": 16},
    "cohere2": {"sliding_window": 8, "logit_scale": 1.0},
    "gpt_oss": {"sliding_window": 8, "num_local_experts": 4, "num_experts_per_tok": 2},
    "qwen3_moe": {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32},
    "gptj": {"rotary_dim": 8},
    "deepseek_v3": {
        "head_dim": 8,
        "num_key_value_heads": 4,
        "q_lora_rank": 16,
        "kv_lora_rank": 16,
        "qk_rope_head_dim": 8,
        "qk_nope_head_dim": 8,
        "v_head_dim": 16,
        "n_routed_experts": 4,
        "n_group": 1,
        "topk_group": 1,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 32,
        "first_k_dense_replace": 1,
    },
}
_OWN = frozenset({"gpt2", "bloom", "gptj"})


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Keep progress bars and advice out of the test output."""
    verbosity = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    yield
    transformers.logging.set_verbosity(verbosity)


@pytest.fixture
def tiny() -> Callable[..., PreTrainedModel]:
    """Make a float32 model of a type, in eager attention, the same weights at every call."""

    def make(kind: str, **options: Any) -> PreTrainedModel:
        torch.manual_seed(0)
        common = _OWN_NAMES if kind in _OWN else _COMMON
        config = AutoConfig.for_model(kind, **{**common, **_SPECIAL.get(kind, {}), **options})
        model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
        with torch.no_grad():
            # The usual initialisation is so flat that errors in attention would hardly show.
            for parameter in model.parameters():
                if parameter.dim() > 1:
                    parameter.normal_(0, 0.15)
        return model

    return make
