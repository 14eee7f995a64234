"""Where an app wants its answer besides the answer topic, and what the answer shall carry."""

from __future__ import annotations

from typing import Final

from msgspec import Struct


class Reply(Struct, frozen=True):
    """What MQTT 5 lets an app say of the answer it wants; over 3.1.1 there is nothing of it.

    Attributes:
        topic: the Response Topic of its ask (MQTT 5, 3.3.2.3.5).
        correlation: the Correlation Data of its ask (MQTT 5, 3.3.2.3.6).
    """

    topic: str | None = None
    correlation: bytes | None = None


NOWHERE_ELSE: Final = Reply()
