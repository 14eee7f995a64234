"""Digests that agent and verifier compute alike. The golden values are the protocol: changing them is a new version."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.digest import Log, next_digest, prompt_digest, tokenizer_digest
from tests.schemas.samples import patient

PROMPT = (1, 4093, 198)
TOKENIZER = json.dumps(
    {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": 2, "content": "<end>", "special": True}],
        "model": {"type": "BPE", "vocab": {"a": 0, "é": 1}, "merges": []},
    }
)

few_tokens = st.lists(st.integers(0, 3), max_size=12)
tokens = st.lists(st.integers(0, 2**31 - 1), max_size=12)


@pytest.mark.parametrize(
    ("prompt", "digest"),
    [
        ((), "fac3d299f58eddfa"),
        ((1,), "a16842426d787f26"),
        (PROMPT, "ac791b45e2fb7999"),
        ((2**31 - 1,), "2748c5e88f832715"),
    ],
)
def test_prompt_digest_golden(prompt: tuple[int, ...], digest: str) -> None:
    assert prompt_digest(prompt).hex() == digest


def test_next_digest_golden() -> None:
    digest = prompt_digest(PROMPT)
    for token, golden in ((17, "ebbf69d97d3b201c"), (0, "91fc6572d64b1411"), (2**31 - 1, "0b068cd1b474ad4d")):
        digest = next_digest(digest, token)
        assert digest.hex() == golden


@pytest.mark.parametrize("token", [-1, 2**32])
def test_next_digest_of_no_token(token: int) -> None:
    with pytest.raises(OverflowError):
        next_digest(prompt_digest(PROMPT), token)


def test_digest_tells_prompt_from_output() -> None:
    """The same tokens, with the border elsewhere, are another log."""
    assert Log((1, 2), (3,)).digest() != Log((1,), (2, 3)).digest()
    assert Log((1, 2)).digest() != Log((1,), (2,)).digest()


@patient
@given(tokens, tokens)
def test_log_agrees_with_the_chain(prompt: list[int], output: list[int]) -> None:
    log = Log(prompt, output)
    digest = prompt_digest(prompt)
    for length, token in enumerate(output):
        assert log.digest(length) == digest
        digest = next_digest(digest, token)
    assert log.digest() == log.digest(len(log)) == digest
    assert len(log) == len(output)
    assert log.prompt == tuple(prompt)
    assert log.tokens() == tuple(output)
    assert log.sequence() == (*prompt, *output)


@patient
@given(tokens, tokens, st.data())
def test_extend_in_pieces(prompt: list[int], output: list[int], data: st.DataObject) -> None:
    """It does not matter in how many rounds a log has grown, nor that it was looked at in between."""
    log = Log(prompt)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(output)))))
    for start, end in zip([0, *cuts], [*cuts, len(output)], strict=True):
        log.extend(output[start:end])
        assert log.digest() == Log(prompt, output[:end]).digest()
        assert log.tokens(start, end) == tuple(output[start:end])


@patient
@given(few_tokens, few_tokens, few_tokens, st.integers(0, 12))
def test_digest_with_is_digest_of_extended_prefix(
    prompt: list[int], output: list[int], more: list[int], at: int
) -> None:
    log = Log(prompt, output)
    base = min(at, len(output))
    before = log.tokens()
    assert log.digest_with(base, more) == Log(prompt, [*output[:base], *more]).digest()
    assert log.tokens() == before


@patient
@given(few_tokens, few_tokens, st.data())
def test_equal_digests_mean_equal_prefixes(prompt: list[int], output: list[int], data: st.DataObject) -> None:
    """What rule 1 of the protocol rests on: a digest at a length stands for everything before it."""
    edited = [list(prompt), list(output)]
    for _ in range(data.draw(st.integers(0, 3))):
        part = data.draw(st.sampled_from(edited))
        place = data.draw(st.integers(0, len(part)))
        part[place : place + data.draw(st.integers(0, 2))] = data.draw(few_tokens.map(lambda new: new[:2]))
    ours, theirs = Log(prompt, output), Log(*edited)
    for length in range(min(len(ours), len(theirs)) + 1):
        same = ours.prompt == theirs.prompt and ours.tokens(0, length) == theirs.tokens(0, length)
        assert (ours.digest(length) == theirs.digest(length)) == same


@pytest.mark.parametrize("length", [-1, 4, 1_000])
def test_digest_beyond_the_log(length: int) -> None:
    log = Log(PROMPT, (1, 2, 3))
    with pytest.raises(IndexError):
        log.digest(length)
    with pytest.raises(IndexError):
        log.digest_with(length, (1,))


def test_extend_with_no_token_keeps_the_log_whole() -> None:
    """A log that refuses a token still has one digest for each token it holds."""
    log = Log(PROMPT, (1,))
    with pytest.raises(OverflowError):
        log.extend((2, -1, 3))
    assert log.tokens() == (1, 2)
    assert log.digest() == Log(PROMPT, (1, 2)).digest()


def test_tokenizer_digest_golden() -> None:
    assert tokenizer_digest("{}") == "5234fa8f59e6b40e"
    assert tokenizer_digest(TOKENIZER) == "728195cad7a0484f"


def test_tokenizer_digest_does_not_depend_on_layout() -> None:
    """Order of keys, white space and escapes are the writer's taste."""
    rules = json.loads(TOKENIZER)
    for text in (
        json.dumps(rules, indent=2),
        json.dumps(dict(reversed(rules.items()))),
        json.dumps(rules, ensure_ascii=False),
    ):
        assert tokenizer_digest(text) == tokenizer_digest(TOKENIZER)


@pytest.mark.parametrize("setting", ["version", "truncation", "padding"])
def test_tokenizer_digest_does_not_depend_on_settings(setting: str) -> None:
    rules = json.loads(TOKENIZER)
    assert tokenizer_digest(json.dumps(rules | {setting: {"max_length": 512}})) == tokenizer_digest(TOKENIZER)
    del rules[setting]
    assert tokenizer_digest(json.dumps(rules)) == tokenizer_digest(TOKENIZER)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"a": 0', '"b": 0'),
        ('"a": 0', '"a": 5'),
        ('"merges": []', '"merges": [["a", "a"]]'),
        ('"BPE"', '"WordPiece"'),
        ("<end>", "<END>"),
        ('"special": true', '"special": false'),
    ],
)
def test_tokenizer_digest_depends_on_rules(old: str, new: str) -> None:
    assert old in TOKENIZER
    assert tokenizer_digest(TOKENIZER.replace(old, new)) != tokenizer_digest(TOKENIZER)


@pytest.mark.parametrize("text", ["", "[]", "null", "7", "{", "not a tokenizer"])
def test_tokenizer_digest_of_other_text(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 -- one for JSON, one for what it holds
        tokenizer_digest(text)
