"""A drafter with another tokenizer: its text as the target's tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from edge_agent.drafters.cross_vocabulary import CrossVocabulary
from edge_agent.drafters.drafter import DrafterError, Proposal, SequenceError
from edge_agent.drafters.onnx import OnnxDrafter
from edge_agent.drafters.vocabulary import Vocabulary
from schemas.messages import GREEDY, Sampling
from tests.edge_agent.drafters.small_tokenizers import letters
from tests.edge_agent.drafters.tiny_decoder import PADDED, TinyDecoder
from tests.edge_agent.drafters.vocabularies import TEXTS, vocabulary

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

BYTES = ["bytes", "gpt2", "gpt2-large", "neox"]
EVER = 1000
"""Looks as far ahead as it takes."""


class Writer:
    """A drafter that knows one text by heart: it writes on from wherever it finds itself in it, and ends there.

    Its proposals are counted, and say how sure it was: of the token number i of all, 1 / (i + 2).
    """

    name = "writer"

    def __init__(self, own: Vocabulary, text: bytes, context_length: int = 10**6) -> None:
        self._own = own
        self._text = text
        self.context_length = context_length
        self.vocab_size = own.size
        self.asked: list[list[int]] = []

    def propose(self, tokens: Sequence[int], sampling: Sampling = GREEDY, position: int = 0) -> Proposal | None:
        assert (sampling, position) == (GREEDY, 0), "the noise is not for its ids"
        if len(tokens) > self.context_length:
            raise SequenceError("It is too long.")
        self.asked.append(list(tokens))
        written = b"".join(self._own.piece(token) or b"" for token in tokens)
        chance = 1 / (len(self.asked) + 1)
        if not self._text.startswith(written):
            return None
        following = self._own.encode(self._text[len(written) :])
        if not following:
            return Proposal(self._own.ends[0], chance, 0.5, 0.25, "pen")
        return Proposal(following[0], chance, 0.5, 0.25, "pen")


def draft(drafter: CrossVocabulary, sequence: list[int], most: int = 400) -> list[int]:
    """What it proposes, one after the other, until it has nothing to say or ends the text."""
    drafted: list[int] = []
    while len(drafted) < most:
        proposal = drafter.propose(sequence + drafted)
        if proposal is None:
            break
        drafted.append(proposal.token)
        if proposal.token in drafter._target.ends:
            break
    return drafted


def spelled(own: Vocabulary, tokens: Sequence[int]) -> bytes:
    """What tokens spell together; special ones nothing."""
    return b"".join(own.piece(token) or b"" for token in tokens)


@pytest.mark.parametrize("target", BYTES)
@pytest.mark.parametrize("own", BYTES)
@settings(max_examples=30)
@given(text=TEXTS, known=st.integers(1, 10))
def test_drafts_are_the_target_s_tokens_of_the_drafter_s_text(own: str, target: str, text: str, known: int) -> None:
    """All of them, and the target's end token: whatever the vocabularies, any text."""
    tokens = vocabulary(target).encode(text.encode())
    assume(known <= len(tokens))
    writer = Writer(vocabulary(own), text.encode())
    drafter = CrossVocabulary(writer, vocabulary(own), vocabulary(target), most_ahead=EVER)
    assert draft(drafter, tokens[:known]) == [*tokens[known:], vocabulary(target).ends[0]]
    assert len({tuple(asked) for asked in writer.asked}) == len(writer.asked), "nothing is computed twice"


@pytest.mark.parametrize(("own", "target"), [("gpt4", "gpt2"), ("sentencepiece", "gpt2"), ("unigram", "gpt2-large")])
@settings(max_examples=50)
@given(text=TEXTS)
def test_drafts_of_other_tokenizers_spell_the_drafter_s_text(own: str, target: str, text: str) -> None:
    assume("▁" not in text and "<0x" not in text)  # SentencePiece cannot write them
    tokens = vocabulary(target).encode(b"The dog" + text.encode())
    opening = vocabulary(own).opening(first=True)
    writer = Writer(vocabulary(own), opening + b"The dog" + text.encode())
    drafter = CrossVocabulary(writer, vocabulary(own), vocabulary(target), most_ahead=EVER)
    begun = vocabulary(target).encode(b"The dog")
    assume(tokens[: len(begun)] == begun)
    assert draft(drafter, begun) == [*tokens[len(begun) :], vocabulary(target).ends[0]]


@pytest.mark.parametrize("target", ["gpt4", "sentencepiece", "unigram"])
@settings(max_examples=50)
@given(text=TEXTS)
@example(text="#====")
def test_drafts_for_other_tokenizers_spell_the_drafter_s_text(target: str, text: str) -> None:
    """Up to what the target's tokenizer would never write: joined characters, a mark for a space.

    Where it may split a text in two ways that are equally likely (unigram), what stands before decides.
    """
    own = vocabulary("gpt2")
    begun = [token for token in vocabulary(target).encode(b" The dog") if vocabulary(target).piece(token)]
    writer = Writer(
        own, spelled(vocabulary(target), begun).removeprefix(vocabulary(target).opening(first=True)) + text.encode()
    )
    drafted = draft(CrossVocabulary(writer, own, vocabulary(target), most_ahead=EVER), begun)
    assert text.encode().startswith(spelled(vocabulary(target), drafted))
    if text.isascii() and "<0x" not in text:
        whole = [
            token for token in vocabulary(target).encode(b" The dog" + text.encode()) if vocabulary(target).piece(token)
        ]
        possible = [vocabulary(target).encode(text.encode()), whole[len(begun) :]]
        assert drafted in [[*tokens, vocabulary(target).ends[0]] for tokens in possible] or not text.strip()


STEPS = st.lists(
    st.tuples(st.integers(0, 30), st.integers(0, 6), st.lists(st.integers(0, 256), max_size=3)), max_size=8
)


@pytest.mark.parametrize(
    ("own", "target"), [("gpt2", "gpt2-large"), ("gpt2-large", "bytes"), ("sentencepiece", "gpt2")]
)
@settings(max_examples=50)
@given(text=TEXTS, steps=STEPS)
def test_propose_after_any_rollback_is_as_from_scratch(
    own: str, target: str, text: str, steps: list[tuple[int, int, list[int]]]
) -> None:
    """Keep some of the sequence, draft on, append anything (half characters and special tokens too), and draft."""
    assume("▁" not in text)
    if own == "sentencepiece":  # it begins a text after a special token with a space, but a model writes none there
        assume(all(vocabulary(target).piece(token) is not None for _, _, appended in steps for token in appended))
    known = vocabulary(target).encode(b"The" + text.encode())
    full = vocabulary(own).opening(first=True) + b"The" + text.encode()

    def fresh() -> CrossVocabulary:
        return CrossVocabulary(Writer(vocabulary(own), full), vocabulary(own), vocabulary(target), most_ahead=EVER)

    drafter, sequence = fresh(), known[:1]
    for kept, drafted, appended in steps:
        sequence = (sequence[:kept] or known[:1]) + appended
        for _ in range(drafted):
            proposal = drafter.propose(sequence)
            again = fresh().propose(sequence)
            assert (proposal and proposal.token) == (again and again.token)
            if proposal is None:
                break
            sequence = [*sequence, proposal.token]


def test_one_inner_token_for_several_of_the_target_is_computed_once() -> None:
    own, target = vocabulary("gpt2-large"), vocabulary("bytes")
    writer = Writer(own, b"The quick brown")
    drafter = CrossVocabulary(writer, own, target)
    sequence = target.encode(b"The")
    assert spelled(target, draft(drafter, sequence, 12)) == b" quick brown"
    assert [len(asked) for asked in writer.asked] == [1, 2], "two words; a byte is open to nothing"


def test_bytes_are_joined_to_a_token_and_only_then_proposed() -> None:
    own, target = vocabulary("bytes"), vocabulary("gpt2-large")
    writer = Writer(own, b"The dog, and")
    proposal = CrossVocabulary(writer, own, target).propose(target.encode(b"The"))
    assert proposal is not None
    assert target.piece(proposal.token) == b" dog"
    assert len(writer.asked) == len(" dog"), "no token goes on from there"


def test_confidence_is_of_the_inner_tokens_counted_once() -> None:
    own, target = vocabulary("bytes"), vocabulary("gpt2-large")
    joined = CrossVocabulary(Writer(own, b"The dog, and"), own, target).propose(target.encode(b"The"))
    assert joined is not None
    assert joined.confidence == pytest.approx(1 / 2 * 1 / 3 * 1 / 4 * 1 / 5)
    assert (joined.entropy, joined.margin, joined.source) == (4 * 0.5, 0.25, "cross:writer")

    split = CrossVocabulary(Writer(target, b"The dog, and"), target, own)
    sequence = own.encode(b"The")
    told = []
    for _ in range(5):
        proposal = split.propose(sequence)
        assert proposal is not None
        told.append((proposal.confidence, proposal.entropy, proposal.margin))
        sequence.append(proposal.token)
    assert told == [(1 / 2, 0.5, 0.25), (1.0, 0.0, 1.0), (1.0, 0.0, 1.0), (1.0, 0.0, 1.0), (1 / 3, 0.5, 0.25)]


def test_a_run_that_could_go_on_for_ever_is_proposed_in_the_end() -> None:
    own, target = vocabulary("bytes"), vocabulary("gpt2-large")
    writer = Writer(own, b"A " + b"=" * 500)
    drafter = CrossVocabulary(writer, own, target, most_ahead=3)
    sequence = target.encode(b"A ")
    proposal = drafter.propose(sequence)
    assert proposal is not None
    assert (target.piece(proposal.token) or b"?").strip(b"=") == b""
    assert len(writer.asked) == 3


def test_special_tokens_written_alike_are_proposed_and_drafting_goes_on() -> None:
    own, target = vocabulary("gpt2"), vocabulary("gpt2-large")
    turn = own.special("<|im_start|>")
    assert turn is not None

    class Turns(Writer):
        def propose(self, tokens: Sequence[int], sampling: Sampling = GREEDY, position: int = 0) -> Proposal | None:
            proposal = super().propose(tokens, sampling, position)
            if proposal is not None and proposal.token in own.ends and turn not in tokens:
                return replace(proposal, token=turn)
            return proposal

    drafter = CrossVocabulary(Turns(own, b"The dog"), own, target)
    begun = target.encode(b"The")
    expected = [*target.encode(b" dog"), target.special("<|im_start|>"), target.ends[0]]
    assert draft(drafter, begun) == expected


def test_special_tokens_as_text_stay_text() -> None:
    own, target = vocabulary("gpt2"), vocabulary("gpt2-large")
    drafter = CrossVocabulary(Writer(own, b"The <|im_end|> x"), own, target)
    drafted = draft(drafter, target.encode(b"The"))
    assert spelled(target, drafted) == b" <|im_end|> x"
    assert [token in target.specials for token in drafted] == [False] * (len(drafted) - 1) + [True]


def test_end_without_a_known_one_of_the_target_proposes_nothing() -> None:
    own = vocabulary("gpt2")
    target = Vocabulary(letters(list(range(32))).to_str())
    drafter = CrossVocabulary(Writer(own, b"abba"), own, target)
    assert draft(drafter, target.encode(b"ab")) == [1, 0]
    assert drafter.propose(target.encode(b"abba")) is None


def test_no_token_beyond_the_limit_is_proposed() -> None:
    own, target = vocabulary("gpt2"), vocabulary("gpt2-large")
    (token,) = target.encode(b" dog")
    drafter = CrossVocabulary(Writer(own, b"The dog"), own, target, vocab_limit=token)
    assert drafter.vocab_size == token
    assert drafter.propose(target.encode(b"The")) is None
    exact = CrossVocabulary(Writer(own, b"The dog"), own, target, vocab_limit=token + 1).propose(target.encode(b"The"))
    assert exact is not None
    assert exact.token == token


def test_text_that_the_target_has_no_token_for_proposes_nothing() -> None:
    own = vocabulary("gpt2")
    target = Vocabulary(letters(list(range(32))).to_str())
    drafter = CrossVocabulary(Writer(own, b"ab!ba"), own, target)
    assert draft(drafter, target.encode(b"a")) == [1]


def test_inner_drafter_without_a_proposal_has_none() -> None:
    own, target = vocabulary("gpt2"), vocabulary("gpt2-large")
    drafter = CrossVocabulary(Writer(own, b"something else"), own, target)
    assert drafter.propose(target.encode(b"The")) is None


def test_nothing_but_unknown_special_tokens_has_no_continuation() -> None:
    own, target = vocabulary("gpt2"), vocabulary("gpt4")
    begin = target.special("<|begin_of_text|>")
    assert begin is not None
    assert CrossVocabulary(Writer(own, b"The"), own, target).propose([begin]) is None


def test_full_context_proposes_what_is_left_and_then_refuses() -> None:
    """The inner drafter can read its prompt and nothing more, so it cannot look ahead."""
    own, target = vocabulary("gpt2"), vocabulary("gpt2-large")
    prompt = b"The quick brown fox jumps over th"
    length = len(own.encode(prompt))
    drafter = CrossVocabulary(Writer(own, prompt + b"e lazy", context_length=length), own, target)
    assert drafter.context_length == length
    sequence = target.encode(prompt)
    proposal = drafter.propose(sequence)
    assert proposal is not None
    assert target.piece(proposal.token) == b"e"
    with pytest.raises(SequenceError, match="too long"):
        drafter.propose([*sequence, proposal.token])
    assert drafter.propose(sequence) == proposal


def test_name_is_the_inner_drafter_s() -> None:
    own, target = vocabulary("gpt2"), vocabulary("gpt4")
    drafter = CrossVocabulary(Writer(own, b"The"), own, target)
    assert (drafter.name, drafter.vocab_size) == ("cross:writer", target.size)


def test_a_model_that_computes_nan_is_an_error(tmp_path: Path) -> None:
    decoder = TinyDecoder.random()
    own, target = (Vocabulary(letters(ids).to_str()) for ids in (list(reversed(range(PADDED))), list(range(PADDED))))
    bad = TinyDecoder(decoder.weights | {"bias": np.full(PADDED, np.nan, np.float32)})
    drafter = CrossVocabulary(OnnxDrafter(bad.save(tmp_path, "fused")), own, target)
    for _ in range(2):
        with pytest.raises(DrafterError, match="computed nothing to choose from"):
            drafter.propose([1, 2, 3])
