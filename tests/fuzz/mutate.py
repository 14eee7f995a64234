"""Turns valid messages into nearly valid ones: bytes, lengths, types and nesting; pure but for the generator given."""

from __future__ import annotations

import base64
import json
import re
from typing import TYPE_CHECKING, Any, Final

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

MOST: Final = 3_000_000
"""Bytes of a mutation at most: above every limit, so that limits are tried too."""

_LENGTHS: Final = (
    *(b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff", b"\xdb\xff\xff\xff\xff"),
    *(
        b"\xdc\xff\xff",
        b"\xc9\xff\xff\xff\xff\x01",
        b"\xcf\xff\xff\xff\xff\xff\xff\xff\xff",
        b"\xcb\x7f\xf8" + bytes(6),
    ),
    *(b"\x84\xff\xff\xff\xff", b"\x30\x80", b"\x30\x84\x7f\xff\xff\xff"),  # of DER: long, and without end
    *(b"\x30\xff\xff\xff\x7f", b"\x82\x80\x80\x80\x80\x01", b"\x62\x02\x00\x07"),  # of MQTT packets
)
"""Lengths that promise what does not follow, and numbers at the edge."""
_PIECES: Final = (
    *(b"\x00", b"\xff", b"\xc1", b"\xed\xa0\x80", b"\xf0\x9f\x99\x82", b"\xef\xbb\xbf", b"\r\n", b'"', b"\\u0000"),
    *(
        b"{",
        b"}",
        b"[",
        b"]",
        b"&a ",
        b"*a",
        b"!!python/object:os.system",
        b"<<: *a",
        b"---\n",
        b"1e999",
        b"-0",
        b"NaN",
    ),
    *(b"+", b"#", b"/", b"..", b"-----BEGIN CERTIFICATE-----\n", b"-----END CERTIFICATE-----\n", b"2001-99-99"),
)
_OPENERS: Final = (b"\x91", b"\x81\xa1k", b"[", b'{"a":', b"- ", b"\x30\x80", b"\xc0\x00")
_NAMES: Final = ("pi+", "#", "a/b", "..", "p\0", "p" * 300, "р\u0456-7", "", "enroll.0000000000000000")  # noqa: RUF001


def mutated(payload: bytes, other: bytes, random: Random) -> bytes:
    """Return a mutation of `payload`; pieces of `other` may come into it."""
    for _ in range(random.choice((1, 1, 1, 2, 3, 8))):
        payload = random.choice(_WAYS)(payload, other, random)
    return payload[:MOST]


def _flip(payload: bytes, _: bytes, random: Random) -> bytes:
    if not payload:
        return b"\x01"
    changed = bytearray(payload)
    for _place in range(random.choice((1, 2, 4))):
        changed[random.randrange(len(changed))] ^= 1 << random.randrange(8)
    return bytes(changed)


def _cut(payload: bytes, _: bytes, random: Random) -> bytes:
    start, end = _slice(payload, random)
    return payload[:end] if random.random() < 0.5 else payload[:start] + payload[end:]


def _repeat(payload: bytes, _: bytes, random: Random) -> bytes:
    start, end = _slice(payload, random)
    times = random.choice((1, 2, 30, 3_000)) if end - start < 500 else 1
    return payload[:end] + payload[start:end] * times + payload[end:]


def _insert(payload: bytes, _: bytes, random: Random) -> bytes:
    at = random.randint(0, len(payload))
    piece = random.choice((*_LENGTHS, *_PIECES, random.randbytes(random.randint(1, 9))))
    return payload[:at] + piece + payload[at + random.choice((0, len(piece))) :]


def _nest(payload: bytes, _: bytes, random: Random) -> bytes:
    at = random.randint(0, len(payload))
    return payload[:at] + random.choice(_OPENERS) * random.choice((2, 40, 400, 4_000)) + payload[at:]


def _splice(payload: bytes, other: bytes, random: Random) -> bytes:
    return payload[: random.randint(0, len(payload))] + other[random.randint(0, len(other)) :]


def _tree(payload: bytes, other: bytes, random: Random) -> bytes:
    """Change the message as what it means: msgpack, JSON, PEM or a token."""
    for decode, encode in _CODINGS:
        try:
            tree = decode(payload)
            return encode(_grown(tree, random))
        except (ValueError, TypeError, RecursionError, OverflowError):  # not of this kind, or no longer
            continue
    if payload.startswith(b"-----BEGIN"):
        return _pem(payload, other, random)
    return _flip(payload, other, random)


def _pem(payload: bytes, other: bytes, random: Random) -> bytes:
    """Change what is inside the armour, so that more than its checksum-less base64 is tried."""
    blocks = re.findall(rb"-----BEGIN ([A-Z0-9 ]+)-----(.*?)-----END", payload, re.DOTALL)
    made = []
    for label, body in blocks:
        try:
            der = base64.b64decode(b"".join(body.split()), validate=True)
        except ValueError:
            der = body
        if random.random() < 0.7:
            der = random.choice((_flip, _cut, _insert, _repeat))(der, other, random)
        made.append(b"-----BEGIN " + label + b"-----\n" + base64.encodebytes(der) + b"-----END " + label + b"-----\n")
    return b"".join(made) or _flip(payload, other, random)


def _grown(tree: Any, random: Random) -> Any:
    """Return a tree with one of its nodes replaced."""
    match tree:
        case dict() if tree and random.random() < 0.8:
            key = random.choice(list(tree))
            return {**tree, key: _grown(tree[key], random)}
        case list() if tree and random.random() < 0.8:
            at = random.randrange(min(len(tree), 50))
            return [*tree[:at], _grown(tree[at], random), *tree[at + 1 :]]
        case _:
            return _other(tree, random)


def _other(node: Any, random: Random) -> Any:
    match random.randrange(9):
        case 0:
            return None
        case 1:
            return random.choice((-1, 0, 1, 2**31, 2**53, 2**63, 2**64 - 1, -(2**63), random.getrandbits(40)))
        case 2:
            return random.choice((0.5, -0.0, 1e308, float("nan"), float("inf")))
        case 3:
            return random.choice(_NAMES)
        case 4:
            return [node] * min(random.choice((0, 2, 100, 20_000)), 200_000 // (1 + len(str(node))))
        case 5:
            return {"a": node, "version": node, "": node}
        case 6:
            return str(node)[: random.randint(0, 50)] + random.choice(("", "\ud7ff", "\x00", "\U0001f642")) * 40
        case 7:
            deep = node
            for _ in range(random.choice((3, 60, 600))):
                deep = [deep]
            return deep
        case _:
            return not node


def _token(payload: bytes) -> Any:
    if not payload.startswith(b"sled1."):
        raise ValueError("no token")
    body = payload.removeprefix(b"sled1.")
    return msgspec.msgpack.decode(base64.urlsafe_b64decode(body + b"=" * (-len(body) % 4)))


def _token_of(tree: Any) -> bytes:
    return b"sled1." + base64.urlsafe_b64encode(msgspec.msgpack.encode(tree)).rstrip(b"=")


def _json(payload: bytes) -> Any:
    tree = json.loads(payload)
    if not isinstance(tree, dict | list):
        raise ValueError("no document")  # noqa: TRY004 -- bad input, not a bad call
    return tree


def _packed(payload: bytes) -> Any:
    tree = msgspec.msgpack.decode(payload)
    if not isinstance(tree, dict | list):
        raise ValueError("no message")  # noqa: TRY004 -- likewise
    return tree


def _slice(payload: bytes, random: Random) -> tuple[int, int]:
    start = random.randint(0, len(payload))
    return start, min(len(payload), start + random.choice((1, 1, 4, 30, 1_000)))


_CODINGS: Final[tuple[tuple[Callable[[bytes], Any], Callable[[Any], bytes]], ...]] = (
    (_token, _token_of),
    (_json, lambda tree: json.dumps(tree).encode()),
    (_packed, msgspec.msgpack.encode),
)
_WAYS: Final = (_flip, _cut, _repeat, _insert, _nest, _splice, _tree, _tree, _tree, _tree)
