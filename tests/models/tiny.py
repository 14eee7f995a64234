"""A llama so small that every test can make its own, with a tokenizer of 256 letters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from tokenizers import Tokenizer, decoders, models, pre_tokenizers

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PretrainedConfig

VOCAB = 320
LONGEST = 600


def save_tokenizer(folder: Path) -> None:
    """Write a byte-level tokenizer."""
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: index for index, letter in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<end>"])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer)
    fast.eos_token = "<end>"  # noqa: S105 - no password
    fast.save_pretrained(str(folder))


SIZES: Final[dict[str, Any]] = {
    "vocab_size": VOCAB,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": LONGEST,
    "initializer_range": 0.3,
}
"""Of a tiny model's configuration: grouped queries, and logits that differ."""


def save_random(folder: Path, config: PretrainedConfig, *, seed: int = 0) -> Path:
    """Write a random causal language model that ends with the tokenizer's end token, and that; return the folder."""
    import torch
    from transformers import AutoModelForCausalLM

    config.bos_token_id = config.eos_token_id = config.pad_token_id = 256
    torch.manual_seed(seed)
    AutoModelForCausalLM.from_config(config).save_pretrained(str(folder))
    save_tokenizer(folder)
    return folder


def save_llama(folder: Path, *, seed: int = 0) -> Path:
    """Write a random two-layer llama with grouped queries and its tokenizer; return the folder."""
    from transformers import LlamaConfig

    return save_random(folder, LlamaConfig(**SIZES, num_hidden_layers=2), seed=seed)
