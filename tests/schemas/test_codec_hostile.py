"""Bytes from anyone: whatever arrives, the codec gives a message or a WireError, soon and in little memory."""

from __future__ import annotations

import tracemalloc
from typing import TYPE_CHECKING

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas import limits
from schemas.codec import decode, decode_ask, decode_cancel, decode_event, decode_state, encode, encode_json
from schemas.errors import PayloadMalformed, PayloadTruncated, WireError
from schemas.messages import AgentState, DataMessage, JsonMessage, SessionContext, Verdict, VerifierState
from tests.schemas.samples import CONTEXT, DATA, VERDICT, data_messages, decode_any, json_messages, patient

if TYPE_CHECKING:
    from collections.abc import Callable

thousands = settings(patient, max_examples=2_000)
hundreds = settings(patient, max_examples=400)


def agent_state(payload: bytes) -> object:
    return decode_state(payload, AgentState)


def verifier_state(payload: bytes) -> object:
    return decode_state(payload, VerifierState)


DECODERS: tuple[Callable[[bytes], object], ...] = (
    decode_any,
    agent_state,
    verifier_state,
    decode_ask,
    decode_cancel,
    decode_event,
)


def survive(payload: bytes) -> None:
    """Let every decoder have a go; anything but a message or a WireError fails the test."""
    for decoder in DECODERS:
        try:
            decoder(payload)
        except WireError as error:
            sentence = str(error)
        else:
            continue
        assert 0 < len(sentence) <= limits.MAX_SENTENCE_CHARACTERS


@pytest.mark.parametrize("message", DATA, ids=lambda message: message.kind)
def test_decode_of_every_truncation(message: DataMessage) -> None:
    payload = encode(message)
    for end in range(len(payload)):
        with pytest.raises(PayloadTruncated, match=f"cut off after {end} bytes"):
            decode_any(payload[:end])


@patient
@given(data_messages, st.data())
def test_decode_of_any_truncation(message: DataMessage, data: st.DataObject) -> None:
    payload = encode(message)
    with pytest.raises(PayloadTruncated):
        decode_any(payload[: data.draw(st.integers(0, len(payload) - 1))])


@pytest.mark.parametrize("message", DATA, ids=lambda message: message.kind)
def test_decode_with_bytes_after_the_message(message: DataMessage) -> None:
    with pytest.raises(PayloadMalformed, match="trailing"):
        decode_any(encode(message) + b"\x00")


@thousands
@given(st.binary(max_size=200))
def test_decode_of_random_bytes(payload: bytes) -> None:
    survive(payload)


@hundreds
@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(2**63), 2**64 - 1)
        | st.floats()
        | st.text(max_size=9)
        | st.binary(max_size=9),
        lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    )
)
def test_decode_of_random_msgpack(value: object) -> None:
    survive(msgspec.msgpack.encode(value))
    for message in DATA:
        survive(msgspec.msgpack.encode([1, message.kind, value, value]))


@hundreds
@given(data_messages.map(encode) | json_messages.map(encode_json), st.data())
def test_decode_with_changed_bytes(payload: bytes, data: st.DataObject) -> None:
    changed = bytearray(payload)
    for _ in range(data.draw(st.integers(1, 4))):
        changed[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
    survive(bytes(changed))


@patient
@given(json_messages, st.data())
def test_decode_of_any_truncated_json(message: JsonMessage, data: st.DataObject) -> None:
    """A document cut in two is never taken for a shorter one."""
    payload = encode_json(message)
    half = payload[: data.draw(st.integers(1, len(payload) - 1))]
    for decoder in DECODERS:
        with pytest.raises(WireError):
            decoder(half)


OPENERS = {"arrays": b"\x91", "maps": b"\x81\xa1k", "maps in keys": b"\x81", "wide arrays": b"\xdc\x00\x01"}


@pytest.mark.parametrize("depth", [1_000, 10_000, 400_000])
@pytest.mark.parametrize("opener", OPENERS.values(), ids=OPENERS)
def test_decode_of_deeply_nested_msgpack(opener: bytes, depth: int) -> None:
    """Depth is an error, not a crash, in fields that are known, ignored or absent."""
    nest = (opener * depth)[: limits.MAX_CONTEXT_BYTES - 500]
    kind = b"\xa7context"
    body = encode(CONTEXT)[1:]
    for payload in (nest, b"\x93\x01" + nest, b"\x93\x01" + kind + nest, b"\x9f" + body + nest):
        with pytest.raises(WireError):
            decode(payload, SessionContext)


def test_decode_of_deeply_nested_unknown_field() -> None:
    """Complete, and of a legal size: only too deep."""
    payload = b"\xdc\x00\x10" + encode(CONTEXT)[1:] + b"\x91" * 100_000 + b"\xc0"
    with pytest.raises(PayloadMalformed, match="nested too deeply"):
        decode(payload, SessionContext)


@pytest.mark.parametrize(("opener", "closer"), [(b"[", b"]"), (b'{"a":', b"}")], ids=["arrays", "objects"])
@pytest.mark.parametrize("closed", [True, False])
def test_decode_of_deeply_nested_json(opener: bytes, closer: bytes, closed: bool) -> None:
    fields = b'{"version":1,"status":"online","boot":"ab","prompt":"a","id":"a","event":"token","new":'
    for depth in (8_000, 200_000):
        nest = opener * depth + (b"0" + closer * depth if closed else b"")
        survive(nest)
        survive(fields + nest + b"}")
    with pytest.raises(PayloadMalformed, match="nested too deeply"):
        decode_ask(fields + opener * 200_000 + (b"0" + closer * 200_000 if closed else b"") + b"}")


HUGE = {
    "array": b"\xdd\xff\xff\xff\xff",
    "array of 2**31": b"\xdd\x80\x00\x00\x00",
    "map": b"\xdf\xff\xff\xff\xff",
    "bytes": b"\xc6\xff\xff\xff\xff",
    "text": b"\xdb\xff\xff\xff\xff",
    "extension": b"\xc9\xff\xff\xff\xff\x01",
}


@pytest.mark.parametrize("announced", HUGE.values(), ids=HUGE)
def test_decode_of_huge_announced_length(announced: bytes) -> None:
    """Five bytes that announce gigabytes get none, wherever they stand."""
    array = encode(VERDICT)
    tokens = array.index(b"\x93\x05\x06\x0b")
    payloads = (
        announced,
        b"\x92\x01" + announced,
        array[:tokens] + announced,
        array[:tokens] + announced + b"\x01" * 1_000,
        b"\x9f" + array[1:] + announced,
    )
    tracemalloc.start()
    try:
        for payload in payloads:
            with pytest.raises(WireError):
                decode(payload, Verdict)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1_000_000
