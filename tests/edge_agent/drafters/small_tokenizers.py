"""Small tokenizers of the kinds in use, each trained on a few sentences."""

from __future__ import annotations

import json
from functools import cache
from typing import TYPE_CHECKING

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

if TYPE_CHECKING:
    from collections.abc import Callable

CORPUS = [
    "The quick brown fox jumps over the lazy dog, and the dog doesn't care at all about the fox.",
    "I don't think they're there; we've seen them there, haven't we? It's 1999, or 2024, or 123456.",
    "def add(a, b):\n    return a + b\n\n\nclass There:\n        pass\n\n    # the end...\n",
    "Ünïcödé café naïve — “quotes” … 😀😃😄 👩‍💻 e\u0301a\u0300 你好、世界。你好吗 日本語のテキスト　です。",
    "hello  hello   hello    world\t\ttabs\r\nlines\n\n\n!!! ??? ... --- ==== there's they'll we're I'm",
] * 3

SPECIALS = ["<|im_start|>", "<|im_end|>"]
GPT4 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def gpt2(size: int, *, specials: list[str] = SPECIALS) -> Tokenizer:
    """Byte-level BPE with GPT-2's words."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return _trained_bytes(tokenizer, size, specials)


def gpt4(size: int) -> Tokenizer:
    """Byte-level BPE with the words of Llama 3 and Qwen, which cut numbers into threes, and NFC."""
    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(GPT4), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    return _trained_bytes(tokenizer, size, ["<|begin_of_text|>", "<|eot_id|>"])


def _trained_bytes(tokenizer: Tokenizer, size: int, specials: list[str]) -> Tokenizer:
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=specials, initial_alphabet=sorted(alphabet), show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def sentencepiece(size: int) -> Tokenizer:
    """BPE with marked spaces and bytes for what it does not know, as Llama 2 has it: no words, a space put before."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))  # noqa: S106 - no password
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=["<unk>", "<s>", "</s>", *_byte_tokens()],
        show_progress=False,
        limit_alphabet=60,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return _like_llama2(tokenizer)


def _like_llama2(trained: Tokenizer) -> Tokenizer:
    """Take words away, as the conversion of SentencePiece models does, and make byte tokens no special ones."""
    config = json.loads(trained.to_str())
    config["added_tokens"] = config["added_tokens"][:3]
    tokenizer = Tokenizer.from_str(json.dumps(config))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.pre_tokenizer = None
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
    )
    return tokenizer


def unigram(size: int) -> Tokenizer:
    """A unigram model with marked spaces and bytes for what it does not know."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace(prepend_scheme="first")])
    special = ["<unk>", "<s>", "</s>"]
    trainer = trainers.UnigramTrainer(
        vocab_size=size, special_tokens=special, unk_token=special[0], show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    config = json.loads(tokenizer.to_str())
    config["model"]["vocab"] += [[token, -20.0] for token in _byte_tokens()]
    config["model"]["byte_fallback"] = True
    return Tokenizer.from_str(json.dumps(config))


def letters(ids: list[int]) -> Tokenizer:
    """One token for each of 32 letters, the letter number i with the id `ids[i]`."""
    written = "abcdefghijklmnopqrstuvwxyzABCDEF"
    tokenizer = Tokenizer(models.BPE(dict(zip(written, ids, strict=True)), []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _byte_tokens() -> list[str]:
    return [f"<0x{byte:02X}>" for byte in range(256)]


def spaces(tokenizer: Tokenizer) -> Tokenizer:
    """Add runs of spaces as whole tokens, as GPT-NeoX has them."""
    tokenizer.add_tokens([AddedToken(" " * count, normalized=False) for count in (4, 8)])
    return tokenizer


MAKERS: dict[str, Callable[[], Tokenizer]] = {
    "bytes": lambda: gpt2(258),
    "gpt2": lambda: gpt2(420),
    "gpt2-large": lambda: gpt2(900),
    "neox": lambda: spaces(gpt2(500)),
    "gpt4": lambda: gpt4(600),
    "sentencepiece": lambda: sentencepiece(500),
    "unigram": lambda: unigram(300),
}
ENDS = {"sentencepiece": "</s>", "unigram": "</s>", "gpt4": "<|eot_id|>"}
BEGINS = {"sentencepiece": "<s>", "unigram": "<s>", "gpt4": "<|begin_of_text|>"}


@cache
def written(name: str) -> str:
    """One of `MAKERS`, written out."""
    return MAKERS[name]().to_str()
