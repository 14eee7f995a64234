"""Tiny random targets of two architectures, and texts for them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from models.distill.texts import Text
from tests.models.tiny import SIZES, VOCAB, save_llama, save_random

if TYPE_CHECKING:
    from pathlib import Path

ARCHITECTURES = ("llama", "qwen2")


def save_target(folder: Path, architecture: str) -> Path:
    """Write a random target: a llama with a head of its own, or a qwen2 of three layers whose head is its embedding."""
    if architecture == "llama":
        return save_llama(folder)
    from transformers import Qwen2Config

    return save_random(folder, Qwen2Config(**SIZES, num_hidden_layers=3, tie_word_embeddings=True))


def save_gpt2(folder: Path, *, longest: int = 200) -> Path:
    """Write a random GPT-2 of four layers, which the ONNX builder does not know."""
    from transformers import GPT2Config

    return save_random(
        folder,
        GPT2Config(vocab_size=VOCAB, n_embd=48, n_layer=4, n_head=2, n_positions=longest, initializer_range=0.3),
    )


def random_texts(count: int, *, vocab_size: int = VOCAB, seed: int = 0) -> list[Text]:
    """Return texts of different lengths that share their first three ids."""
    generator = np.random.default_rng(seed)
    texts = []
    for _ in range(count):
        prompt, answer = generator.integers(1, 12), generator.integers(1, 30)
        ids = np.concatenate([[5, 6, 7], generator.integers(0, vocab_size, prompt + answer)]).astype(np.int32)
        texts.append(Text(ids, int(prompt) + 3))
    return texts


def write_prompts(path: Path, texts: list[str]) -> Path:
    """Write a file of prompts of two sources; return it."""
    path.write_text(
        "".join(f'{{"id": {at}, "prompt": "{text}", "source": "s{at % 2}"}}\n' for at, text in enumerate(texts))
    )
    return path
