"""Bytes to messages and back, with limits and one error type per kind of bad input."""

from __future__ import annotations

from typing import Any, TypeVar, get_args, overload

import msgspec
from msgspec import Struct

from schemas.errors import (
    InvalidField,
    NotText,
    PayloadMalformed,
    PayloadTooLarge,
    PayloadTruncated,
    UnexpectedKind,
    UnsupportedVersion,
)
from schemas.limits import MAX_PROMPT_CHARACTERS
from schemas.messages import (
    VERSION,
    AgentState,
    AnswerEvent,
    Ask,
    Cancel,
    DataMessage,
    DraftBundle,
    JsonMessage,
    Refusal,
    RequestId,
    Resync,
    SessionContext,
    Verdict,
    VerifierState,
)

A = TypeVar("A", bound=DataMessage)
B = TypeVar("B", bound=DataMessage)
C = TypeVar("C", bound=DataMessage)
S = TypeVar("S", AgentState, VerifierState)


class _Header(Struct, frozen=True, array_like=True):
    """What every data-plane message begins with, whatever its version."""

    version: int
    kind: str


_KINDS: dict[str, type[DataMessage]] = {
    "context": SessionContext,
    "draft": DraftBundle,
    "verdict": Verdict,
    "resync": Resync,
    "refusal": Refusal,
}
_PACKER = msgspec.msgpack.Encoder()
_HEADER = msgspec.msgpack.Decoder(_Header)
_UNPACKERS = {kind: msgspec.msgpack.Decoder(struct) for kind, struct in _KINDS.items()}
_EVENT: msgspec.json.Decoder[AnswerEvent] = msgspec.json.Decoder(AnswerEvent)
_ASK = msgspec.json.Decoder(Ask)
_CANCEL = msgspec.json.Decoder(Cancel)


def encode(message: DataMessage) -> bytes:
    """Return a data-plane message as msgpack.

    Raises:
        PayloadTooLarge: the message has more bytes than its kind may have.
    """
    payload = _PACKER.encode(message)
    _check_size(payload, message.limit, type(message).__name__)
    return payload


@overload
def decode(payload: bytes, first: type[A], /) -> A: ...
@overload
def decode(payload: bytes, first: type[A], second: type[B], /) -> A | B: ...
@overload
def decode(payload: bytes, first: type[A], second: type[B], third: type[C], /) -> A | B | C: ...


def decode(payload: bytes, *expected: Any) -> Any:
    """Return the data-plane message in `payload`, one of the `expected` types.

    Raises:
        PayloadTooLarge, PayloadTruncated, PayloadMalformed: it is no message.
        UnsupportedVersion: it is of another major version; the sentence names both.
        UnexpectedKind: it is a message of another kind.
        InvalidField: a field has the wrong type, size or range; the sentence says which.
    """
    _check_size(payload, max(struct.limit for struct in expected), _names(expected))
    header = _unpack(_HEADER, payload, "the message header")
    if header.version != VERSION:
        raise UnsupportedVersion(
            f"the message is of protocol version {header.version}; this side speaks version {VERSION}: "
            "update the older side"
        )
    struct = _KINDS.get(header.kind)
    if struct is not None and struct in expected:
        _check_size(payload, struct.limit, struct.__name__)
        return _unpack(_UNPACKERS[header.kind], payload, struct.__name__)
    raise UnexpectedKind(f"a message of kind {header.kind[:40]!r} came where {_names(expected)} was expected")


def encode_json(message: JsonMessage) -> bytes:
    """Return an app or state message as JSON.

    Raises:
        PayloadTooLarge: the message has more bytes than its kind may have.
    """
    payload = msgspec.json.encode(message)
    _check_size(payload, message.limit, type(message).__name__)
    return payload


def decode_state(payload: bytes, state: type[S]) -> S:
    """Return the retained state in `payload`.

    Raises:
        WireError: as `decode`.
    """
    _check_size(payload, state.limit, state.__name__)
    _text(payload)
    version = _parse(msgspec.json.Decoder(_StateVersion), payload, state.__name__).version
    if version != VERSION:
        raise UnsupportedVersion(
            f"the {state.__name__} is of protocol version {version}; this side speaks version {VERSION}: "
            "update the older side"
        )
    return _parse(msgspec.json.Decoder(state), payload, state.__name__)


class _StateVersion(Struct, frozen=True):
    version: int


def decode_event(payload: bytes) -> AnswerEvent:
    """Return the answer event in `payload`, or raise a WireError."""
    _check_size(payload, max(struct.limit for struct in get_args(AnswerEvent)), "an answer event")
    _text(payload)
    return _parse(_EVENT, payload, "the answer event")


def decode_ask(payload: bytes) -> Ask:
    """Return a request from its JSON or its plain text.

    A payload that begins with `{` is JSON; everything else is the prompt itself.

    Raises:
        PayloadTooLarge, NotText, PayloadMalformed, InvalidField: with a sentence for the person who asked.
    """
    _check_size(payload, Ask.limit, "an ask")
    text = _text(payload).removeprefix("\ufeff")
    if text.lstrip().startswith("{"):
        ask = _parse(_ASK, text.encode(), "the ask")
    elif len(text) > MAX_PROMPT_CHARACTERS:
        raise PayloadTooLarge(f"a prompt may have {MAX_PROMPT_CHARACTERS} characters, this one has {len(text)}")
    else:
        ask = Ask(prompt=text)
    if ask.prompt is not None and ask.messages:
        raise InvalidField("an ask has either `prompt` or `messages`, not both: leave one out")
    if not (ask.prompt or "").strip() and not any(m.content.strip() for m in ask.messages):
        raise InvalidField("the prompt is empty: send the question as text, or as JSON under `prompt`")
    return ask


class _AskId(Struct, frozen=True):
    id: RequestId


def ask_id(payload: bytes) -> str | None:
    """Return the id in an ask that may otherwise be wrong, so that its error finds the app; None if there is none."""
    try:
        return msgspec.json.decode(payload, type=_AskId).id
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return None


def decode_cancel(payload: bytes) -> Cancel:
    """Return a cancellation from its JSON or from a request id in plain text, or raise a WireError."""
    _check_size(payload, Cancel.limit, "a cancel")
    text = _text(payload).strip()
    if text.startswith("{"):
        return _parse(_CANCEL, payload, "the cancel")
    return _parse(_CANCEL, msgspec.json.encode({"id": text}), "the cancel")


def _check_size(payload: bytes, limit: int, what: str) -> None:
    if len(payload) > limit:
        raise PayloadTooLarge(f"{what} may have {limit} bytes, this one has {len(payload)}")


def _names(structs: tuple[type[Struct], ...]) -> str:
    return " or ".join(struct.__name__ for struct in structs)


def brief(error: msgspec.ValidationError) -> str:
    """Return what msgspec says, without the middle of a long value it quotes: it must fit into a Sentence."""
    text = str(error)
    return text if len(text) <= 300 else f"{text[:200]}...{text[-80:]}"


def _text(payload: bytes) -> str:
    try:
        return payload.decode()
    except UnicodeDecodeError as error:
        raise NotText(
            f"the text is not UTF-8 (byte {error.start} is 0x{payload[error.start]:02x}): send it as UTF-8"
        ) from None


T = TypeVar("T")


def _unpack(decoder: msgspec.msgpack.Decoder[T], payload: bytes, what: str) -> T:
    try:
        return decoder.decode(payload)
    except msgspec.ValidationError as error:
        raise InvalidField(f"{what} is not valid: {brief(error)}") from None
    except msgspec.DecodeError as error:
        if not payload or "truncated" in str(error):
            raise PayloadTruncated(f"{what} is cut off after {len(payload)} bytes") from None
        raise PayloadMalformed(f"{what} is not msgpack: {error}") from None
    except UnicodeDecodeError:
        raise PayloadMalformed(f"{what} holds a string that is not UTF-8") from None
    except RecursionError:
        raise PayloadMalformed(f"{what} is nested too deeply") from None


def _parse(decoder: msgspec.json.Decoder[T], payload: bytes, what: str) -> T:
    try:
        return decoder.decode(payload)
    except msgspec.ValidationError as error:
        raise InvalidField(f"{what} is not valid: {brief(error)}") from None
    except msgspec.DecodeError as error:
        raise PayloadMalformed(f"{what} is not valid JSON: {error}") from None
    except RecursionError:
        raise PayloadMalformed(f"{what} is nested too deeply") from None
