"""Whether a packet that a client sends has the form that MQTT 3.1.1 gives it; pure.

Of one that has not, amqtt makes another: text that is no UTF-8 becomes other text, what is left over the next packet.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

LONG_KINDS: Final = (1, 3)
"""CONNECT and PUBLISH, the packets that carry a payload of somebody's."""
_LEVEL: Final = 4
"""Of the protocol. Another one is answered before what it says of the rest matters (3.1.2.2)."""


def is_well_formed(first: int, body: memoryview) -> bool:
    """Whether a client may send this.

    Args:
        first: byte of the packet, with its kind and flags.
        body: what follows the length.
    """
    check = _CHECKS.get(first >> 4)
    if check is None:
        return False
    try:
        check(first & 0x0F, body)
    except (ValueError, IndexError, struct.error):
        return False
    return True


def _connect(flags: int, body: memoryview) -> None:
    name, at = _bytes(body, 0)
    if bytes(name) != b"MQTT" or body[at] != _LEVEL:
        return
    given = body[at + 1]
    _see(flags == 0 and given & 0x18 != 0x18)
    _, at = _text(body, at + 4)
    if given & 0x04:
        _, at = _text(body, at)
        _, at = _bytes(body, at)
    if given & 0x80:
        _, at = _text(body, at)
    if given & 0x40:
        _, at = _bytes(body, at)
    _see(at == len(body))


def _publish(flags: int, body: memoryview) -> None:
    topic, at = _text(body, 0)
    _see(topic and "+" not in topic and "#" not in topic)
    _see(at + (2 if flags & 0x06 else 0) <= len(body))


def _subscribe(flags: int, body: memoryview) -> None:
    _filters(flags, body, 1)


def _unsubscribe(flags: int, body: memoryview) -> None:
    _filters(flags, body, 0)


def _filters(flags: int, body: memoryview, after: int) -> None:
    at = 2
    _see(flags == 2 and len(body) > at)
    while at < len(body):
        at = _text(body, at)[1] + after
    _see(at == len(body))


def _of(flags: int, size: int) -> Callable[[int, memoryview], None]:
    def check(given: int, body: memoryview) -> None:
        _see(given == flags and len(body) == size)

    return check


def _text(body: memoryview, at: int) -> tuple[str, int]:
    """Read what is UTF-8 without NUL (1.5.3); returns where it ends, too."""
    piece, at = _bytes(body, at)
    text = str(piece, "utf-8")
    _see("\0" not in text)
    return text, at


def _bytes(body: memoryview, at: int) -> tuple[memoryview, int]:
    (size,) = struct.unpack_from(">H", body, at)
    at += 2
    _see(at + size <= len(body))
    return body[at : at + size], at + size


def _see(right: object) -> None:
    if not right:
        raise ValueError


_CHECKS: Final[dict[int, Callable[[int, memoryview], None]]] = {
    1: _connect,
    3: _publish,
    **{kind: _of(0, 2) for kind in (4, 5, 7)},  # PUBACK, PUBREC, PUBCOMP
    6: _of(2, 2),  # PUBREL
    8: _subscribe,
    10: _unsubscribe,
    **{kind: _of(0, 0) for kind in (12, 14)},  # PINGREQ, DISCONNECT
}
"""By the number of the kind (table 2.1); those that are missing are sent by brokers, or none."""
