"""What waits for a role's loop is bounded; what its own threads say is never dropped."""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.mailbox import Mailbox
from broker.message import Message

if TYPE_CHECKING:
    import pytest


def test_deliver_beyond_the_limit_drops_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    mailbox: Mailbox[str] = Mailbox(limit=2)
    for number in range(5):
        mailbox.deliver(Message(f"topic/{number}", b""))
    mailbox.put("stop")
    read = [mailbox.get(0) for _ in range(4)]
    assert [item.topic for item in read if isinstance(item, Message)] == ["topic/0", "topic/1"]
    assert read[2:] == ["stop", None]
    assert mailbox.dropped == 3
    assert "2 messages wait to be read" in caplog.text


def test_get_waits_no_longer_than_told() -> None:
    mailbox: Mailbox[str] = Mailbox()
    assert mailbox.get(-1) is None
    mailbox.put("up")
    assert mailbox.get(0) == "up"
