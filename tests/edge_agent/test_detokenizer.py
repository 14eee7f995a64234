"""Tokens become text piece by piece, and the pieces are the text."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from edge_agent.detokenizer import Detokenizer

EMOJI = "🏳️‍🌈"  # four code points, fourteen bytes
COMBINED = "é"  # a letter and a combining accent


def named(tokenizer: Tokenizer, name: str) -> int:
    """The id of a token."""
    token = tokenizer.token_to_id(name)
    assert token is not None
    return token


def byte_level() -> Tokenizer:
    """A real byte-level BPE tokenizer: every byte, some merges across and within characters, a special token."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("h", "e"), ("l", "l"), ("he", "ll"), ("hell", "o"), ("Ġ", "hello"), ("Ã", "©"), ("ð", "Ł"), ("e", "Ì")]
    words = [*alphabet, *(left + right for left, right in merges)]
    tokenizer = Tokenizer(models.BPE({word: index for index, word in enumerate(words)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<end>"])
    return tokenizer


def sentencepiece() -> Tokenizer:
    """Words that begin with a space sign, and bytes for everything else."""
    words = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "▁hello", "▁world", "hello", "!", "é"]
    tokenizer = Tokenizer(models.BPE({word: index for index, word in enumerate(words)}, [], byte_fallback=True))
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens(["<end>"])
    return tokenizer


BYTES = byte_level()
PIECES = sentencepiece()
SPECIAL = named(BYTES, "<end>")
TEXTS = st.lists(
    st.sampled_from(["hello", " hello", "héllo", "a", "\n", EMOJI, COMBINED, "好", "\N{REPLACEMENT CHARACTER}"])
    | st.characters(exclude_categories=["Cs"]),
    max_size=30,
).map("".join)


def decode(tokens: list[int]) -> str:
    """Decode with the byte-level tokenizer, special tokens left out."""
    text: str = BYTES.decode(tokens)
    return text


def pieces(tokens: list[int], stop: list[str] | None = None) -> list[str]:
    """Add the tokens one at a time; the last piece is what `finish` gives."""
    detokenizer = Detokenizer(decode, stop or [])
    return [*(detokenizer.add([token]) for token in tokens), detokenizer.finish()]


@settings(deadline=None)
@given(tokens=st.lists(st.integers(0, SPECIAL), max_size=150))
def test_pieces_of_any_tokens_join_to_their_text(tokens: list[int]) -> None:
    """Even of bytes that are no text at all."""
    assert "".join(pieces(tokens)) == decode(tokens)


@settings(deadline=None)
@given(text=TEXTS)
def test_pieces_of_any_text_join_to_it_and_split_no_character(text: str) -> None:
    found = pieces(BYTES.encode(text).ids)
    assert "".join(found) == text
    if "\N{REPLACEMENT CHARACTER}" not in text:
        assert "\N{REPLACEMENT CHARACTER}" not in "".join(found)


@settings(deadline=None, max_examples=30)
@given(
    run=st.sampled_from([[0x80], [0xF0], [0xFF], [0xF0, 0x9F], [0xEF, 0xBF, 0xBD], [0xE2, 0x82, 0x41]]),
    times=st.integers(50, 120),
    end=st.sampled_from([b"", b"a", "😀".encode(), b"\x9f\x98\x80"]),
)
def test_pieces_of_long_malformed_runs_join_to_their_text(run: list[int], times: int, end: bytes) -> None:
    tokens = [byte_token(byte) for byte in [*(run * times), *end]]
    assert "".join(pieces(tokens)) == decode(tokens)


def test_decoding_costs_the_same_however_long_the_text() -> None:
    """No call decodes more than a window, whatever the tokens are."""
    longest = 0

    def counting(tokens: list[int]) -> str:
        nonlocal longest
        longest = max(longest, len(tokens))
        return decode(tokens)

    detokenizer = Detokenizer(counting)
    endless = [byte_token(0x80)] * 300 + BYTES.encode("hello 好 " * 300).ids + [SPECIAL] * 300
    detokenizer.add(endless)
    assert longest <= 65


def byte_token(byte: int) -> int:
    """The token of a single byte: its place among the printable stand-ins that byte-level BPE uses."""
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [value for value in range(256) if value not in visible]
    stand_in = chr(byte) if byte in visible else chr(256 + hidden.index(byte))
    return named(BYTES, stand_in)


def test_add_holds_back_a_character_until_its_last_byte() -> None:
    tokens = [byte_token(byte) for byte in "a😀b".encode()]
    assert pieces(tokens) == ["a", "", "", "", "😀", "b", ""]


def test_add_token_with_part_of_a_character_gives_the_rest_at_once() -> None:
    """The merge `e` + first byte of a combining accent: the letter need not wait."""
    first = named(BYTES, "eÌ")
    detokenizer = Detokenizer(decode)
    assert detokenizer.add([first]) == "e"
    assert detokenizer.add([byte_token(0x81)]) == "\N{COMBINING ACUTE ACCENT}"


def test_finish_gives_out_what_never_became_a_character() -> None:
    detokenizer = Detokenizer(decode)
    assert detokenizer.add([byte_token(0xF0)]) == ""
    assert detokenizer.finish() == "\N{REPLACEMENT CHARACTER}"


def test_special_tokens_leave_no_trace() -> None:
    assert "".join(pieces([SPECIAL, *BYTES.encode("hello").ids, SPECIAL])) == "hello"


@settings(deadline=None)
@given(words=st.lists(st.sampled_from(["▁hello", "▁world", "hello", "!", "é", "▁", "<end>", "好", "😀"]), max_size=60))
def test_pieces_with_leading_space_signs_join_to_their_text(words: list[str]) -> None:
    """SentencePiece drops the very first space, and only that; other characters come as runs of byte tokens."""
    tokens = []
    for word in words:
        names = [word] if PIECES.token_to_id(word) is not None else [f"<0x{byte:02X}>" for byte in word.encode()]
        tokens += [named(PIECES, name) for name in names]
    detokenizer = Detokenizer(PIECES.decode)
    found = [detokenizer.add([token]) for token in tokens]
    assert "".join(found) + detokenizer.finish() == PIECES.decode(tokens)


def cut(text: str, stops: list[str]) -> str:
    """The text before the stop string that is complete first."""
    ends = [(text.find(stop) + len(stop), text.find(stop)) for stop in stops if stop in text]
    return text[: min(ends)[1]] if ends else text


@settings(deadline=None)
@given(
    text=st.text("abc好\n", max_size=40),
    stops=st.lists(st.text("abc好\n", min_size=1, max_size=4), min_size=1, max_size=3),
    size=st.integers(1, 7),
)
@example(text="abcab", stops=["abcd", "bca"], size=2)
@example(text="aab", stops=["ab"], size=1)
def test_stop_string_cuts_the_text_however_tokens_arrive(text: str, stops: list[str], size: int) -> None:
    tokens = BYTES.encode(text).ids
    detokenizer = Detokenizer(decode, stops)
    found = "".join(detokenizer.add(tokens[at : at + size]) for at in range(0, len(tokens), size))
    assert found + detokenizer.finish() == cut(text, stops)
    first = next((n for n in range(len(tokens) + 1) if any(stop in decode(tokens[:n]) for stop in stops)), None)
    assert detokenizer.stop_found == first


def test_stop_string_across_tokens_is_held_back_and_never_shown() -> None:
    tokens = BYTES.encode("a\n\nb").ids
    detokenizer = Detokenizer(decode, ["\n\n"])
    assert [detokenizer.add([token]) for token in tokens] == ["a", "", "", ""]
    assert detokenizer.stop_found == 3
    assert detokenizer.finish() == ""


def test_stop_string_that_does_not_come_is_given_out_at_the_end() -> None:
    assert pieces(BYTES.encode("a<|").ids, ["<|x|>"]) == ["a", "", "", "<|"]


def test_add_after_finish_is_refused() -> None:
    detokenizer = Detokenizer(decode)
    detokenizer.finish()
    with pytest.raises(ValueError, match="text is finished"):
        detokenizer.add([1])


def test_empty_stop_string_is_refused() -> None:
    with pytest.raises(ValueError, match="stop string is empty"):
        Detokenizer(decode, ["a", ""])
