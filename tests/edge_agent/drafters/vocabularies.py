"""Vocabularies of small tokenizers, and texts that try them."""

from __future__ import annotations

from functools import cache

from hypothesis import strategies as st

from edge_agent.drafters.vocabulary import Vocabulary
from tests.edge_agent.drafters.small_tokenizers import BEGINS, CORPUS, ENDS, written

NAMES = ["bytes", "gpt2", "gpt2-large", "neox", "gpt4", "sentencepiece", "unigram"]


@cache
def vocabulary(name: str) -> Vocabulary:
    """Return one of the small tokenizers' vocabularies, which is never changed."""
    return Vocabulary(written(name), begin=BEGINS.get(name), end=ENDS.get(name, "<|im_end|>"))


_KNOWN = sorted({word for text in CORPUS for word in text.split(" ")})
_PARTS = st.one_of(
    st.sampled_from(_KNOWN),
    st.sampled_from([" ", "  ", "    ", "\n", "\n\n", "\t", "\r\n", "'", "'re", "…", "\u3000", "\u00a0", "12", "3"]),
    st.sampled_from(
        ["😀", "👩‍💻", "你好", "語", "é", "e\u0301", "a\u0300\u0323", "ß", "\u0301", "한글", "\ufeff", "▁"]
    ),
    st.sampled_from(["<|im_end|>", "</s>", "<0x0A>", "<unk>", "<s>"]),
    st.text(max_size=3),
)
TEXTS = st.lists(_PARTS | _PARTS.map(lambda part: " " + part), min_size=1, max_size=12).map("".join)
"""Words of the corpus and what is hard: spaces, half words, other scripts, combining marks, special tokens as text."""
