"""What a link did, as it writes it down. Times are seconds of `time.monotonic`."""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

Way: TypeAlias = Literal["up", "down"]
"""`up` from the role to the broker, `down` from the broker to the role."""


class Changed(msgspec.Struct, frozen=True, tag_field="event", tag="changed"):
    """The link was cut, mended, held or let go on."""

    at: float
    what: Literal["cut", "mended", "held", "resumed"]


class Set(msgspec.Struct, frozen=True, tag_field="event", tag="set"):
    """A setting has another value from now on."""

    at: float
    setting: Literal["delay", "loss", "duplication"]
    value: float


class Published(msgspec.Struct, frozen=True, tag_field="event", tag="published"):
    """A PUBLISH came, and this is what the link did with it."""

    at: float
    way: Way
    topic: str
    bytes: int
    fate: Literal["passed", "dropped", "duplicated"]


class LostTrack(msgspec.Struct, frozen=True, tag_field="event", tag="lost_track"):
    """What one side of a connection sends is no MQTT; the rest of it is passed on as it comes."""

    at: float
    way: Way
    why: str


LinkEvent: TypeAlias = Changed | Set | Published | LostTrack
