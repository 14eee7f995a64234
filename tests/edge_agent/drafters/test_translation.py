"""The target's tokens as a drafter's."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.drafters.translation import Translation
from edge_agent.drafters.vocabulary import Vocabulary
from tests.edge_agent.drafters.small_tokenizers import CORPUS, gpt2, written
from tests.edge_agent.drafters.vocabularies import NAMES, TEXTS, vocabulary

PAIRS = [
    ("gpt2-large", "gpt2"),
    ("gpt2", "gpt4"),
    ("neox", "sentencepiece"),
    ("sentencepiece", "gpt2"),
    ("gpt4", "unigram"),
]
STEPS = st.lists(st.tuples(st.integers(0, 30), st.lists(st.integers(0, 270), max_size=8) | TEXTS), max_size=8)


def spelled(own: Vocabulary, tokens: list[int]) -> bytes:
    """What tokens spell together; special ones nothing."""
    return b"".join(own.piece(token) or b"" for token in tokens)


@pytest.mark.parametrize(("target", "drafter"), PAIRS)
@settings(max_examples=50)
@given(steps=STEPS)
def test_ids_depend_on_the_sequence_alone(target: str, drafter: str, steps: list[tuple[int, list[int] | str]]) -> None:
    """Keep some of the sequence, append something else: any tokens, special ones and half characters included."""
    translation = Translation(vocabulary(target), vocabulary(drafter))
    sequence: list[int] = []
    for kept, more in steps:
        appended = vocabulary(target).encode(more.encode()) if isinstance(more, str) else more
        sequence = sequence[:kept] + appended
        assert translation.ids(sequence) == Translation(vocabulary(target), vocabulary(drafter)).ids(sequence)


def test_ids_of_a_word_that_had_ended_and_now_goes_on() -> None:
    """What showed that the word had ended is taken back, and the word with it."""
    own = vocabulary("gpt2-large")
    translation = Translation(own, own)
    for text in (b"and the", b"and the dog", b"and there", b"and the fox"):
        sequence = [*own.encode(b"and the"), *own.encode(text.removeprefix(b"and the"))]
        assert translation.ids(sequence) == own.encode(text)
    assert len(own.encode(b" there")) == 1


@pytest.mark.parametrize("target", ["bytes", "gpt2", "neox"])
@pytest.mark.parametrize("drafter", ["gpt2", "gpt2-large", "bytes"])
@given(text=TEXTS)
def test_ids_spell_the_same_bytes(target: str, drafter: str, text: str) -> None:
    sequence = vocabulary(target).encode(text.encode())
    translation = Translation(vocabulary(target), vocabulary(drafter))
    for length in range(len(sequence) + 1):
        ids = translation.ids(sequence[:length])
        assert spelled(vocabulary(drafter), ids) == spelled(vocabulary(target), sequence[:length])


@pytest.mark.parametrize("drafter", NAMES)
@pytest.mark.parametrize("text", CORPUS[:2])
def test_ids_are_those_of_the_whole_text(drafter: str, text: str) -> None:
    """Words are encoded one by one and come out as in the whole."""
    translation = Translation(vocabulary("gpt2"), vocabulary(drafter))
    own = vocabulary(drafter)
    opening = b"" if text.startswith(" ") else own.opening(first=True)
    ids = translation.ids(vocabulary("gpt2").encode(text.encode()))
    assert ids == [*own.preamble, *own.encode(opening + text.encode())]


class Counting(Vocabulary):
    """Counts the bytes it encodes."""

    encoded = 0

    def encode(self, data: bytes) -> list[int]:
        self.encoded += len(data)
        return super().encode(data)


@pytest.mark.parametrize("text", ["The dog doesn't care. ", "世界你好", "a"], ids=["words", "no spaces", "one letter"])
def test_ids_of_a_growing_text_cost_what_is_new(text: str) -> None:
    target, own = vocabulary("bytes"), Counting(written("gpt2"))
    translation = Translation(target, own)
    sequence = target.encode((text * 2000).encode())[:4000]
    translation.ids(sequence[:-1])
    own.encoded = 0
    for length in range(len(sequence) - 400, len(sequence)):
        translation.ids(sequence[:length])
    per_step = own.encoded / 400
    assert per_step < 140, "a step encodes one piece, however long the text is"


def test_ids_special_tokens_are_those_written_alike() -> None:
    target, drafter = vocabulary("gpt2"), Vocabulary(gpt2(400, specials=["<x>", "<|im_end|>", "<|im_start|>"]).to_str())
    start, end = target.special("<|im_start|>"), target.special("<|im_end|>")
    assert start is not None
    assert end is not None
    ids = Translation(target, drafter).ids([start, *target.encode(b"user\nHello"), end, *target.encode(b"\n"), start])
    assert [drafter.specials.get(token) for token in ids if token in drafter.specials] == [
        "<|im_start|>",
        "<|im_end|>",
        "<|im_start|>",
    ]
    assert spelled(drafter, ids) == b"user\nHello\n"


def test_ids_special_tokens_of_another_kind_are_mapped_by_what_they_do() -> None:
    """The beginning, which the drafter's tokenizer would put there itself, comes once; unknown ones are left out."""
    target, drafter = vocabulary("gpt4"), vocabulary("sentencepiece")
    begin, end = target.special("<|begin_of_text|>"), target.special("<|eot_id|>")
    assert begin is not None
    assert end is not None
    hello = target.encode(b"hello")
    ids = Translation(target, drafter).ids([begin, *hello, end, *hello, 10**6, *hello])
    known = drafter.encode(b" hello")
    assert ids == [1, *known, 2, *known, *known]
    assert Translation(target, drafter).ids([*hello]) == [1, *known]
    assert Translation(target, vocabulary("gpt2")).ids([begin]) == []


def test_ids_what_the_target_put_before_the_text_is_left_out() -> None:
    target, drafter = vocabulary("sentencepiece"), vocabulary("gpt2")
    sequence = [1, *target.encode(b" hello there")]
    assert Translation(target, drafter).ids(sequence) == drafter.encode(b"hello there")
    assert Translation(target, target).ids(sequence) == sequence
