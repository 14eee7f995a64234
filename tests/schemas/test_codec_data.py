"""Data-plane messages: msgpack arrays, version first, kind second."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import pytest
from hypothesis import given

from schemas import limits
from schemas.codec import decode, encode
from schemas.errors import (
    InvalidField,
    PayloadMalformed,
    PayloadTooLarge,
    UnexpectedKind,
    UnsupportedVersion,
    WireError,
)
from schemas.messages import (
    DataMessage,
    DraftBundle,
    Epoch,
    Refusal,
    ReleasedRange,
    Resync,
    SessionContext,
    Verdict,
)
from tests.schemas.samples import (
    BUNDLE,
    CONTEXT,
    DATA,
    DIGEST,
    REFUSAL,
    RESYNC,
    SESSION,
    VERDICT,
    data_messages,
    decode_any,
    patient,
)

pack = msgspec.msgpack.encode


def items(message: DataMessage) -> list[Any]:
    """The wire form of a message, to be tampered with."""
    array: list[Any] = msgspec.msgpack.decode(encode(message))
    return array


def with_field(message: DataMessage, field: str, value: object) -> bytes:
    array = items(message)
    array[message.__struct_fields__.index(field)] = value
    return pack(array)


@patient
@given(data_messages)
def test_decode_of_encoded_message(message: DataMessage) -> None:
    assert decode_any(encode(message)) == message


@pytest.mark.parametrize("message", DATA, ids=lambda message: message.kind)
def test_encode_puts_version_and_kind_first(message: DataMessage) -> None:
    assert items(message)[:2] == [1, message.kind]


def test_encode_golden_bundle() -> None:
    """The 57 bytes of version 1, pinned: devices in the field speak them."""
    assert encode(BUNDLE).hex() == (
        "9b01a56472616674c40800c0ffee00c0ffee9203c408626f6f742d6f6e65020929c4080123456789abcdef930506ce0001117008ce0016e360"
    )


def test_decode_without_optional_fields() -> None:
    """Fields with defaults may be missing: an older minor version did not know them."""
    assert decode(pack(items(BUNDLE)[:9]), DraftBundle) == msgspec.structs.replace(BUNDLE, run=0, time_left=0)


@pytest.mark.parametrize("message", DATA, ids=lambda message: message.kind)
def test_decode_with_unknown_fields_at_the_end(message: DataMessage) -> None:
    payload = pack([*items(message), "new", {"in": ["version", 1.5]}, None])
    assert decode(payload, type(message)) == message


@pytest.mark.parametrize("message", DATA, ids=lambda message: message.kind)
@pytest.mark.parametrize("version", [0, 2, 65_535, 2**40])
def test_decode_of_another_version_names_both(message: DataMessage, version: int) -> None:
    with pytest.raises(UnsupportedVersion, match=rf"version {version}; .* version 1\b") as caught:
        decode(with_field(message, "version", version), type(message))
    assert caught.value.code == "unsupported_version"


def test_decode_of_another_version_with_unknown_layout() -> None:
    """Version and kind are readable whatever the rest of the message has become."""
    with pytest.raises(UnsupportedVersion):
        decode(pack([2, "proposal", {"tree": [[1, 2], [3]]}]), DraftBundle)


@pytest.mark.parametrize("message", DATA, ids=lambda message: message.kind)
def test_decode_of_another_kind(message: DataMessage) -> None:
    wanted: type[DataMessage] = Resync if isinstance(message, Verdict) else Verdict
    with pytest.raises(UnexpectedKind, match=f"{message.kind}.*{wanted.__name__}"):
        decode(encode(message), wanted)


def test_decode_of_unknown_kind_shows_it_safely() -> None:
    with pytest.raises(UnexpectedKind) as caught:
        decode(pack([1, "\x1b[2J" + "k" * 1_000]), Verdict, Resync)
    assert "\x1b" not in str(caught.value)
    assert len(str(caught.value)) < 200


def test_decode_picks_among_expected_kinds() -> None:
    for message in (VERDICT, RESYNC, REFUSAL):
        assert decode(encode(message), Verdict, Resync, Refusal) == message


@pytest.mark.parametrize(
    ("message", "field"),
    [(message, field) for message in DATA for field in message.__struct_fields__],
    ids=lambda value: value if isinstance(value, str) else value.kind,
)
@pytest.mark.parametrize("value", [1.5, {"a": 1}, [[[]]], True, "\x00", b"\x00"], ids=repr)
def test_decode_with_wrong_type_of_field(message: DataMessage, field: str, value: object) -> None:
    """The error says where. Only free text may be anything, as long as it is text."""
    if field in {"sentence", "tokenizer"} and value == "\x00":
        assert decode(with_field(message, field, value), type(message)) != message
        return
    with pytest.raises(WireError) as caught:
        decode(with_field(message, field, value), type(message))
    if field == "kind" and value == "\x00":
        assert caught.type is UnexpectedKind
    else:
        assert caught.type is InvalidField
        assert f"$[{message.__struct_fields__.index(field)}]" in str(caught.value)


@pytest.mark.parametrize(
    ("message", "field", "value"),
    [
        (CONTEXT, "prompt", [-1]),
        (CONTEXT, "prompt", [2**31]),
        (CONTEXT, "committed", [1, 2, 2**63]),
        (CONTEXT, "prompt", [1.0]),
        (CONTEXT, "max_tokens", 0),
        (CONTEXT, "max_tokens", limits.MAX_CONTEXT_TOKENS + 1),
        (CONTEXT, "owner", "Desk"),
        (CONTEXT, "owner", "desk\n"),
        (CONTEXT, "owner", "+"),
        (CONTEXT, "owner", ""),
        (CONTEXT, "tokenizer", "f" * 65),
        (CONTEXT, "stop", [[-1], False]),
        (CONTEXT, "stop", [list(range(limits.MAX_STOP_TOKENS + 1)), False]),
        (CONTEXT, "released", [[0]]),
        (CONTEXT, "released", [[-1, 0]]),
        (CONTEXT, "sampling", [-0.1, 0, 1.0, 0]),
        (CONTEXT, "sampling", [101, 0, 1.0, 0]),
        (CONTEXT, "sampling", [1.0, -1, 1.0, 0]),
        (CONTEXT, "sampling", [1.0, 0, 0.0, 0]),
        (CONTEXT, "sampling", [1.0, 0, 1.1, 0]),
        (CONTEXT, "sampling", [1.0, 0, 1.0, 2**63]),
        (BUNDLE, "session", SESSION[:7]),
        (BUNDLE, "session", SESSION + b"\x00"),
        (BUNDLE, "session", b""),
        (BUNDLE, "session", SESSION.hex()),
        (BUNDLE, "epoch", [1]),
        (BUNDLE, "epoch", [1, b"short"]),
        (BUNDLE, "epoch", [-1, b"boot-one"]),
        (BUNDLE, "revision", -1),
        (BUNDLE, "base", 2**53),
        (BUNDLE, "digest", DIGEST[1:]),
        (BUNDLE, "draft", [-1]),
        (BUNDLE, "draft", [2**31]),
        (BUNDLE, "draft", [0] * (limits.MAX_DRAFT_TOKENS + 1)),
        (BUNDLE, "run", limits.MAX_RUN_TOKENS + 1),
        (BUNDLE, "time_left", -1),
        (VERDICT, "tokens", [0] * (limits.MAX_VERDICT_TOKENS + 1)),
        (VERDICT, "finish", "cancelled"),
        (VERDICT, "draft_hint", limits.MAX_DRAFT_TOKENS + 1),
        (RESYNC, "reason", "no_reason"),
        (RESYNC, "known", [1]),
        (REFUSAL, "code", "no_code"),
        (REFUSAL, "sentence", "." * (limits.MAX_SENTENCE_CHARACTERS + 1)),
        (REFUSAL, "session", SESSION[:7]),
    ],
)
def test_decode_with_value_out_of_range(message: DataMessage, field: str, value: object) -> None:
    with pytest.raises(InvalidField, match=rf"\$\[{message.__struct_fields__.index(field)}\]"):
        decode(with_field(message, field, value), type(message))


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", [0, 2], ids=["temperature", "top_p"])
def test_decode_with_sampling_not_finite(place: int, number: float) -> None:
    sampling: list[object] = [0.7, 40, 0.95, 1]
    sampling[place] = number
    with pytest.raises(InvalidField):
        decode(with_field(CONTEXT, "sampling", sampling), SessionContext)


def test_decode_with_long_wrong_value_gives_short_sentence() -> None:
    """The sentence travels in a Refusal, which has room for so many characters."""
    with pytest.raises(InvalidField, match=r"\$\[2\]`$") as caught:
        decode(with_field(REFUSAL, "code", "x" * 5_000), Refusal)
    assert len(str(caught.value)) <= limits.MAX_SENTENCE_CHARACTERS


@pytest.mark.parametrize("field", ["kind", "sentence"])
def test_decode_with_string_not_utf8(field: str) -> None:
    payload = with_field(REFUSAL, field, "????").replace(b"????", b"\xff\xfe??")
    with pytest.raises(PayloadMalformed, match="UTF-8"):
        decode(payload, Refusal)


@pytest.mark.parametrize("struct", [SessionContext, DraftBundle, Verdict, Resync, Refusal])
def test_decode_of_oversized_payload(struct: type[DataMessage]) -> None:
    """The size is checked before anything is decoded."""
    with pytest.raises(PayloadTooLarge, match=f"{struct.limit} bytes, this one has {struct.limit + 1}"):
        decode(b"\x00" * (struct.limit + 1), struct)


def test_decode_of_small_kind_under_the_limit_of_a_large_one() -> None:
    """Where two kinds may come, each still keeps to its own limit."""
    bundle = pack([*items(BUNDLE), b"\x00" * limits.MAX_DRAFT_BYTES])
    with pytest.raises(PayloadTooLarge, match="DraftBundle"):
        decode(bundle, DraftBundle, SessionContext)


def test_encode_of_oversized_message() -> None:
    most = (2**31 - 1,) * 10_000
    with pytest.raises(PayloadTooLarge, match="Verdict may have 32768 bytes"):
        encode(Verdict(1, "verdict", SESSION, Epoch(1, DIGEST), 0, 0, most, 0, DIGEST))


def test_encode_of_largest_legal_messages() -> None:
    """The byte limits leave room for whatever the field limits allow."""
    top, token = 2**53 - 1, 2**31 - 1
    epoch = Epoch(top, DIGEST)
    for message in (
        SessionContext(
            *(1, "context", SESSION, epoch, top, "d" * 63, "f" * 64),
            prompt=(token,) * limits.MAX_CONTEXT_TOKENS,
            committed=(token,) * limits.MAX_CONTEXT_TOKENS,
            max_tokens=limits.MAX_CONTEXT_TOKENS,
            released=(ReleasedRange(top, top),) * 4096,
        ),
        DraftBundle(1, "draft", SESSION, epoch, top, top, top, DIGEST, (token,) * limits.MAX_DRAFT_TOKENS),
        Verdict(1, "verdict", SESSION, epoch, top, top, (token,) * limits.MAX_VERDICT_TOKENS, top, DIGEST),
        Refusal(1, "refusal", "malformed", "\U0001f30a" * limits.MAX_SENTENCE_CHARACTERS),
    ):
        assert decode_any(encode(message)) == message
