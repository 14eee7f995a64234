"""Tokens and the bytes they stand for."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models

from edge_agent.drafters.drafter import DrafterError
from edge_agent.drafters.vocabulary import Vocabulary, complete
from tests.edge_agent.drafters.small_tokenizers import letters, written
from tests.edge_agent.drafters.vocabularies import NAMES, TEXTS, vocabulary
from tests.models.tiny import save_tokenizer

if TYPE_CHECKING:
    from pathlib import Path


def spelled(own: Vocabulary, tokens: list[int]) -> bytes:
    """What tokens spell together."""
    return b"".join(own.piece(token) or b"?" for token in tokens)


@pytest.mark.parametrize("name", NAMES)
@given(data=st.binary(max_size=12) | TEXTS.map(str.encode))
def test_encode_spells_the_same_bytes(name: str, data: bytes) -> None:
    """Half characters included."""
    assume("▁".encode() not in data or name not in {"sentencepiece", "unigram"})  # there it is a space
    assume(b"<0x" not in data or name != "unigram")  # there it is a byte, whoever wrote it
    own = vocabulary(name)
    assert spelled(own, own.encode(data)) == data


@pytest.mark.parametrize("name", NAMES)
@given(text=TEXTS)
def test_pieces_spell_what_the_tokenizer_decodes(name: str, text: str) -> None:
    own, whole = vocabulary(name), Tokenizer.from_str(written(name))
    tokens = whole.encode(text, add_special_tokens=False).ids
    assume(not set(tokens) & set(own.specials))
    assert spelled(own, tokens).removeprefix(own.opening(first=True)) == whole.decode(tokens).encode()


@pytest.mark.parametrize("name", ["bytes", "gpt2", "gpt2-large", "neox"])
@given(text=TEXTS)
def test_encode_is_the_tokenizer_s_own(name: str, text: str) -> None:
    tokens = Tokenizer.from_str(written(name)).encode(text, add_special_tokens=False).ids
    assume(not set(tokens) & set(vocabulary(name).specials))
    assert vocabulary(name).encode(text.encode()) == tokens


@pytest.mark.parametrize("name", NAMES)
@given(text=TEXTS)
def test_encode_never_makes_a_special_token(name: str, text: str) -> None:
    own = vocabulary(name)
    assert not set(own.encode(text.encode())) & set(own.specials)


@pytest.mark.parametrize("name", NAMES)
@given(before=TEXTS, text=TEXTS, more=TEXTS)
@example(before="a", text="  ", more="b")
@example(before="", text="'r", more="e")
@example(before="", text="12", more="34")
def test_next_token_once_settled_never_changes(name: str, before: str, text: str, more: str) -> None:
    own = vocabulary(name)
    token, settled = own.next_token(before.encode(), text.encode())
    if settled and token is not None:
        assert own.next_token(before.encode(), (text + more).encode(), final=True).token == token


@pytest.mark.parametrize("name", NAMES)
def test_next_token_waits_for_the_word_s_end_and_no_longer(name: str) -> None:
    own = vocabulary(name)
    token, settled = own.next_token(b"over", b" the la")
    assert settled
    assert token is not None
    assert b" the la".startswith(own.piece(token) or b"?")
    if name != "bytes":
        assert own.next_token(b"over", b" the") == (None, False), "it may become there"


@pytest.mark.parametrize("name", ["gpt2-large", "sentencepiece"])
def test_next_token_of_half_a_character_waits(name: str) -> None:
    own = vocabulary(name)
    whole = "😀".encode()
    for length in range(4):
        assert own.next_token(b"", whole[:length]) == (None, False)
    assert own.next_token(b"", whole[:2], final=True).token is not None


def test_next_token_across_a_boundary_that_encoding_would_not_have() -> None:
    """The target wrote `th`; that `the` is one token does not help any more."""
    own = vocabulary("gpt2-large")
    (token,) = own.encode(b"e")
    assert len(own.encode(b" the")) == 1
    assert own.next_token(b" th", b"e quick").token == token


def test_next_token_continues_half_a_character() -> None:
    own = vocabulary("bytes")
    first, *others = "😀".encode()
    for length in range(3):
        before = bytes([first, *others[:length]])
        token = own.next_token(before, bytes(others[length:])).token
        assert token is not None
        assert own.piece(token) == bytes([others[length]])


def test_next_token_that_normalization_would_join_is_none() -> None:
    own = vocabulary("gpt4")
    assert own.next_token(b"caf", "e\u0301 x".encode()) == (None, True)
    token = own.next_token(b"caf", "é x".encode()).token
    assert token is not None
    assert "é".encode().startswith(own.piece(token) or b"?")


def test_next_token_without_any_token_is_none() -> None:
    own = Vocabulary(letters(list(range(32))).to_str())
    assert own.next_token(b"a", b"!b") == (None, True)
    assert own.next_token(b"a", b"b!").token == 1


@pytest.mark.parametrize(
    ("data", "length"),
    [
        *[(b"", 0), (b"a", 1), (b"a\xf0", 1), (b"a\xf0\x9f", 1), (b"a\xf0\x9f\x98", 1), (b"a\xf0\x9f\x98\x80", 5)],
        *[(b"\xc3", 0), (b"\xc3\xa9", 2), (b"\xe4\xbd", 0), (b"\x80\x80\x80\x80", 4)],
    ],
)
def test_complete_leaves_a_begun_character_out(data: bytes, length: int) -> None:
    assert complete(data) == length


@pytest.mark.parametrize(
    ("name", "preamble", "openings"),
    [("gpt2", (), (b"", b"")), ("sentencepiece", (1,), (b" ", b" ")), ("unigram", (), (b" ", b""))],
)
def test_preamble_and_opening_are_the_tokenizer_s(
    name: str, preamble: tuple[int, ...], openings: tuple[bytes, bytes]
) -> None:
    own = vocabulary(name)
    assert own.preamble == preamble
    assert (own.opening(first=True), own.opening(first=False)) == openings


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"decoder": None}, "decoder .* is neither byte-level nor SentencePiece's"),
        ({"decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True}}, "neither byte-level"),
        ({"model": {"end_of_word_suffix": "</w>"}}, "affix at word ends"),
        ({"model": {"continuing_subword_prefix": "##"}}, "affix at word ends"),
    ],
)
def test_vocabulary_of_another_kind_is_refused(change: dict[str, Any], complaint: str) -> None:
    config = json.loads(written("gpt2"))
    for name, value in change.items():
        config[name] = config[name] | value if name == "model" else value
    with pytest.raises(DrafterError, match=complaint):
        Vocabulary(json.dumps(config))


@pytest.mark.parametrize("kind", [models.WordPiece, models.WordLevel])
def test_vocabulary_of_whole_words_is_refused(kind: type[models.WordPiece | models.WordLevel]) -> None:
    tokenizer = Tokenizer(kind({"a": 0}, unk_token="a"))  # noqa: S106 - no password
    tokenizer.decoder = decoders.WordPiece()
    with pytest.raises(DrafterError, match=r"is a Word\w+ model, which does not say what its tokens spell"):
        Vocabulary(tokenizer.to_str())


@pytest.mark.parametrize(("stated", "ends"), [(None, (256,)), (7, (7, 256)), ([7, 256, 8], (256, 7, 8)), ([], (256,))])
def test_load_ends_are_the_tokenizer_s_and_the_model_s(tmp_path: Path, stated: Any, ends: tuple[int, ...]) -> None:
    save_tokenizer(tmp_path)
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": stated}))
    own = Vocabulary.load(tmp_path)
    assert own.ends == ends
    assert own.special("<end>") == 256
    assert own.piece(256) is None
    assert own.size == 257


def test_load_names_the_folder(tmp_path: Path) -> None:
    with pytest.raises(DrafterError, match=r"has no tokenizer\.json"):
        Vocabulary.load(tmp_path)
    save_tokenizer(tmp_path)
    config = json.loads((tmp_path / "tokenizer.json").read_text())
    (tmp_path / "tokenizer.json").write_text(json.dumps(config | {"decoder": None}))
    with pytest.raises(DrafterError, match=r"cannot be used across vocabularies\. The decoder"):
        Vocabulary.load(tmp_path)
