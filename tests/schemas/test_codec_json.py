"""App and state messages: JSON that any MQTT client can write, or plain text."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given

from schemas import limits
from schemas.codec import decode_ask, decode_cancel, decode_event, decode_state, encode_json
from schemas.errors import InvalidField, NotText, PayloadMalformed, PayloadTooLarge, UnsupportedVersion
from schemas.messages import (
    AgentState,
    AnswerEvent,
    Ask,
    Cancel,
    ChatMessage,
    TokenEvent,
    VerifierState,
)
from tests.schemas.samples import EVENTS, agent_states, asks, cancels, events, patient, verifier_states

CHAT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why is the sea salty?"}]


def as_json(**fields: object) -> bytes:
    return json.dumps(fields).encode()


@patient
@given(asks)
def test_decode_ask_of_encoded_ask(ask: Ask) -> None:
    assert decode_ask(encode_json(ask)) == ask


@patient
@given(cancels)
def test_decode_cancel_of_encoded_cancel(cancel: Cancel) -> None:
    assert decode_cancel(encode_json(cancel)) == cancel


@patient
@given(events)
def test_decode_event_of_encoded_event(event: AnswerEvent) -> None:
    assert decode_event(encode_json(event)) == event


@patient
@given(agent_states, verifier_states)
def test_decode_state_of_encoded_state(agent: AgentState, verifier: VerifierState) -> None:
    assert decode_state(encode_json(agent), AgentState) == agent
    assert decode_state(encode_json(verifier), VerifierState) == verifier


@pytest.mark.parametrize(
    "text", ["Why is the sea salty?", "  indented\n", "Pourquoi ? 🌊", '"quoted"', "[1, 2]", "null"]
)
def test_decode_ask_of_plain_text(text: str) -> None:
    """Whatever does not begin with a brace is the prompt, to the letter."""
    assert decode_ask(text.encode()) == Ask(prompt=text)


def test_decode_ask_of_json_prompt() -> None:
    payload = b' \n{"id": "q-1", "prompt": "Why?", "max_tokens": 8, "temperature": 1, "stop": ["\\n"], "seed": 7}\n'
    assert decode_ask(payload) == Ask(id="q-1", prompt="Why?", max_tokens=8, temperature=1.0, stop=("\n",), seed=7)


def test_decode_ask_of_conversation() -> None:
    ask = decode_ask(as_json(messages=CHAT))
    assert ask.messages == (ChatMessage("system", "Be brief."), ChatMessage("user", "Why is the sea salty?"))
    assert ask.prompt is None


def test_decode_ask_with_unknown_fields() -> None:
    """A newer app may say more; an older agent answers what it understands."""
    chat = [{**CHAT[1], "name": "Ana"}]
    assert decode_ask(as_json(messages=chat, stream=True, extra={"deep": [1]})).messages[0].role == "user"


@pytest.mark.parametrize(
    "payload",
    [b"", b" ", b"\n\t \n", "\u2003".encode(), b"{}", b'{"prompt": ""}', b'{"prompt": " \\n"}', b'{"messages": []}'],
)
def test_decode_ask_without_question(payload: bytes) -> None:
    with pytest.raises(InvalidField, match="the prompt is empty"):
        decode_ask(payload)


def test_decode_ask_with_blank_conversation() -> None:
    with pytest.raises(InvalidField, match="the prompt is empty"):
        decode_ask(as_json(messages=[{"role": "user", "content": " "}]))


@pytest.mark.parametrize("prompt", ["Why?", ""])
def test_decode_ask_with_prompt_and_messages(prompt: str) -> None:
    with pytest.raises(InvalidField, match="either `prompt` or `messages`, not both"):
        decode_ask(as_json(prompt=prompt, messages=CHAT))


@pytest.mark.parametrize(
    "payload", [b"\xff", b"caf\xe9", b'{"prompt": "caf\xe9"}', b"\xed\xa0\x80", b"\xc0\xaf", b"ok \xf0\x9f"]
)
def test_decode_ask_not_utf8(payload: bytes) -> None:
    with pytest.raises(NotText, match=r"byte \d+ is 0x[0-9a-f]{2}") as caught:
        decode_ask(payload)
    assert caught.value.code == "not_utf8"


@pytest.mark.parametrize(
    "payload",
    [
        *(b"{", b"{hello}", b"{'prompt': 'a'}", b'{"prompt": "a"', b'{"prompt": "a"} and more', b'{"prompt": "a",}'),
        *(b'{"prompt": "\\ud800 alone"}', b'{"prompt": "a", "temperature": NaN}', '\u2003{"prompt": "a"}'.encode()),
    ],
)
def test_decode_ask_with_brace_but_no_json(payload: bytes) -> None:
    """A slip in JSON is an error, not a prompt full of braces."""
    with pytest.raises(PayloadMalformed, match="not valid JSON"):
        decode_ask(payload)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("id", ""), ("id", "a/b"), ("id", "+"), ("id", "#"), ("id", "a\n"), ("id", "x" * 65), ("id", 7), ("id", "é")),
        *(("prompt", 7), ("prompt", ["a"]), ("prompt", "a" * (limits.MAX_PROMPT_CHARACTERS + 1))),
        *(("max_tokens", 0), ("max_tokens", -1), ("max_tokens", 2.5), ("max_tokens", "8"), ("max_tokens", True)),
        *(
            ("max_tokens", limits.MAX_CONTEXT_TOKENS + 1),
            ("temperature", -1),
            ("temperature", 101),
            ("temperature", "hot"),
        ),
        *(("top_k", -1), ("top_k", 2**31), ("top_p", 0), ("top_p", 1.01), ("seed", -1), ("seed", 2**63), ("seed", 0.5)),
        *(("stop", "\n"), ("stop", [""]), ("stop", ["a"] * (limits.MAX_STOP_STRINGS + 1)), ("ignore_end", 1)),
        ("stop", ["a" * (limits.MAX_STOP_CHARACTERS + 1)]),
    ],
    ids=lambda value: str(value)[:20],
)
def test_decode_ask_with_invalid_field(field: str, value: object) -> None:
    with pytest.raises(InvalidField, match=rf"\$\.{field}"):
        decode_ask(as_json(**({"prompt": "Why?"} | {field: value})))


def test_decode_ask_with_number_out_of_range() -> None:
    with pytest.raises(InvalidField, match="temperature"):
        decode_ask(b'{"prompt": "a", "temperature": 1e999}')


@pytest.mark.parametrize(
    "turn",
    [
        {"role": "robot", "content": "a"},
        {"role": "user"},
        {"content": "a"},
        {"role": "user", "content": None},
        "a",
        None,
    ],
    ids=str,
)
def test_decode_ask_with_invalid_turn(turn: object) -> None:
    with pytest.raises(InvalidField, match=r"\$\.messages\[1\]"):
        decode_ask(as_json(messages=[CHAT[0], turn]))


def test_decode_ask_with_too_many_turns() -> None:
    with pytest.raises(InvalidField, match=r"\$\.messages"):
        decode_ask(as_json(messages=CHAT[:1] * (limits.MAX_MESSAGES + 1)))


def test_decode_ask_with_long_wrong_value_gives_short_sentence() -> None:
    """The sentence travels in an error event, which has room for so many characters."""
    with pytest.raises(InvalidField, match="role") as caught:
        decode_ask(as_json(messages=[{"role": "r" * 100_000, "content": "a"}]))
    assert len(str(caught.value)) <= limits.MAX_SENTENCE_CHARACTERS


def test_decode_ask_oversized() -> None:
    with pytest.raises(PayloadTooLarge, match=f"{limits.MAX_ASK_BYTES} bytes"):
        decode_ask(b"a" * (limits.MAX_ASK_BYTES + 1))


def test_decode_ask_of_plain_text_too_long() -> None:
    """Characters count, not bytes, and plain text has no more of them than JSON."""
    longest = "🌊" * limits.MAX_PROMPT_CHARACTERS
    assert decode_ask(longest.encode()).prompt == longest
    with pytest.raises(PayloadTooLarge, match="characters"):
        decode_ask(longest.encode() + b"!")


@pytest.mark.parametrize("payload", [b"q-1", b" q-1\n", b'{"id": "q-1"}', b'\n{"id": "q-1", "why": "bored"} '])
def test_decode_cancel_of_text_or_json(payload: bytes) -> None:
    assert decode_cancel(payload) == Cancel("q-1")


@pytest.mark.parametrize(
    "payload", [b"", b"  ", b"a b", b"a/b", b"+", b'"q-1"', b"x" * 65, b"{}", b'{"id": 1}', b'{"id": "#"}']
)
def test_decode_cancel_with_invalid_id(payload: bytes) -> None:
    with pytest.raises(InvalidField, match="the cancel is not valid"):
        decode_cancel(payload)


def test_decode_cancel_of_other_bytes() -> None:
    with pytest.raises(NotText):
        decode_cancel(b"\xff")
    with pytest.raises(PayloadMalformed):
        decode_cancel(b"{q-1}")
    with pytest.raises(PayloadTooLarge):
        decode_cancel(b"a" * (limits.MAX_STATE_BYTES + 1))


@pytest.mark.parametrize("state", [AgentState, VerifierState])
def test_decode_state_of_another_version_names_both(state: type[AgentState | VerifierState]) -> None:
    """Even when nothing else in it is known."""
    with pytest.raises(UnsupportedVersion, match=r"version 2; .* version 1\b"):
        decode(as_json(version=2, mood="new"), state)


def decode(payload: bytes, state: type[AgentState | VerifierState]) -> AgentState | VerifierState:
    return decode_state(payload, AgentState) if state is AgentState else decode_state(payload, VerifierState)


def test_decode_state_with_unknown_fields() -> None:
    payload = as_json(version=1, status="online", boot="ab12", battery=0.5)
    assert decode_state(payload, AgentState) == AgentState(1, "online", "ab12")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("version", "1"), ("version", None), ("status", "away"), ("boot", 7), ("boot", "f" * 65), ("vocab_size", -1)),
        *(("end_tokens", [-1]), ("end_tokens", [2**31]), ("end_tokens", 2), ("round_time", 0.5), ("draining", "no")),
    ],
)
def test_decode_state_with_invalid_field(field: str, value: object) -> None:
    with pytest.raises(InvalidField, match=rf"\$\.{field}"):
        decode_state(as_json(**({"version": 1, "status": "online", "boot": "ab"} | {field: value})), VerifierState)


@pytest.mark.parametrize("field", ["version", "status", "boot"])
def test_decode_state_with_missing_field(field: str) -> None:
    fields = {"version": 1, "status": "online", "boot": "ab"}
    del fields[field]
    with pytest.raises(InvalidField, match=field):
        decode_state(as_json(**fields), AgentState)


def test_decode_state_of_other_bytes() -> None:
    """An empty payload is how MQTT clears a retained message; it is no state."""
    for payload in (b"", b"online", b'{"version": 1'):
        with pytest.raises(PayloadMalformed):
            decode_state(payload, AgentState)
    with pytest.raises(InvalidField):
        decode_state(b"[]", AgentState)
    with pytest.raises(NotText):
        decode_state(b'{"version": 1, "boot": "\xff"}', AgentState)
    with pytest.raises(PayloadTooLarge):
        decode_state(b" " * (limits.MAX_STATE_BYTES + 1), AgentState)


def test_encode_json_of_states_leaves_defaults_out() -> None:
    assert encode_json(AgentState(1, "offline", "ab12")) == b'{"version":1,"status":"offline","boot":"ab12"}'


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: type(event).__name__)
def test_encode_json_of_event_is_readable(event: AnswerEvent) -> None:
    written: dict[str, Any] = json.loads(encode_json(event))
    assert written["event"] == type(event).__struct_config__.tag
    assert written["request"] == "question-1"
    assert msgspec.json.decode(encode_json(event) + b"\n") == written


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: type(event).__name__)
def test_decode_event_with_unknown_fields(event: AnswerEvent) -> None:
    assert decode_event(encode_json(event)[:-1] + b',"new":{"a":[1]}}') == event


def test_decode_event_of_unknown_event() -> None:
    with pytest.raises(InvalidField, match="progress"):
        decode_event(as_json(event="progress", request="q", sequence=0))


def test_encode_json_oversized() -> None:
    event = TokenEvent("q", 0, 0, 0, "a" * limits.MAX_ANSWER_BYTES, ())
    with pytest.raises(PayloadTooLarge, match="TokenEvent"):
        encode_json(event)
