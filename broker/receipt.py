"""Whether the broker has a message that was sent."""

from __future__ import annotations

from typing import TYPE_CHECKING

from paho.mqtt.enums import MQTTErrorCode

if TYPE_CHECKING:
    import paho.mqtt.client as paho


class Receipt:
    """Says whether the broker has acknowledged the message it was given to `Bridge.publish` with; from any thread.

    It may miss an acknowledgement, never invent one: what paho was given at the very moment the connection was lost is
    sent again by paho after the next connect, and this does not tell when. At QoS 0 it says whether the socket took it.
    """

    def __init__(self) -> None:
        self._info: paho.MQTTMessageInfo | None = None

    @property
    def acknowledged(self) -> bool:
        """Whether it has."""
        info = self._info
        return info is not None and info.rc == MQTTErrorCode.MQTT_ERR_SUCCESS and info.is_published()

    def watch(self, info: paho.MQTTMessageInfo) -> None:
        """Look at what paho knows of the message, now that paho has it."""
        self._info = info
