"""Where answer events go, and how last events are looked after: a real spool, and a broker that answers when told."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from paho.mqtt.client import MQTTMessageInfo

from edge_agent import delivery
from edge_agent.delivery import REPEAT_AFTER, REPEATS, Delivery
from edge_agent.reply import NOWHERE_ELSE, Reply
from edge_agent.spool import Spool, Spooled, SpoolError
from schemas.topics import Topics

if TYPE_CHECKING:
    from collections.abc import Iterator

    from broker.receipt import Receipt

ANSWER = "sled/v1/device/pi/answer/one"
INBOX = "my/inbox"


class Desk:
    """A device's delivery, its spool, its clock and its broker."""

    def __init__(self) -> None:
        self.spool = Spool(None)
        self.clock = 100.0
        self.sent: list[tuple[str, bytes, bytes | None]] = []
        self.full = False
        self._infos: list[MQTTMessageInfo] = []
        self.delivery = Delivery("pi", Topics(), self.spool, self.publish, lambda: self.clock)

    def publish(self, topic: str, payload: bytes, *, correlation: bytes | None, receipt: Receipt) -> None:
        self.sent.append((topic, payload, correlation))
        self._infos.append(MQTTMessageInfo(len(self.sent)))
        if not self.full:
            receipt.watch(self._infos[-1])

    def acknowledge(self, index: int) -> None:
        self._infos[index]._set_as_published()

    def ended(self, request: str = "one", reply: Reply = NOWHERE_ELSE) -> None:
        """Have a request end with an event that says its name."""
        session = request.encode().rjust(8)
        self.spool.add(Spooled(request, session, (1,), 5, "70ce11a5"), reply)
        self.spool.finalize(session, request.encode())
        self.delivery.say(request, request.encode(), last=True)

    def undelivered(self) -> list[str]:
        return [request.id for request, _ in self.spool.undelivered()]

    def wait(self, seconds: float) -> int:
        """Let time pass; return how many messages it brought."""
        before = len(self.sent)
        self.clock += seconds
        self.delivery.check()
        return len(self.sent) - before


@pytest.fixture
def desk() -> Iterator[Desk]:
    one = Desk()
    yield one
    one.spool.close()


# Where to -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reply", "messages"),
    [
        (NOWHERE_ELSE, [(ANSWER, None)]),
        (Reply(INBOX), [(ANSWER, None), (INBOX, None)]),
        (Reply(INBOX, b"\x00"), [(ANSWER, b"\x00"), (INBOX, b"\x00")]),
        (Reply(None, b""), [(ANSWER, b"")]),
        (Reply(ANSWER, b"1"), [(ANSWER, b"1")]),
    ],
)
def test_every_event_goes_to_the_answer_topic_and_where_the_app_wants_it(
    desk: Desk, reply: Reply, messages: list[tuple[str, bytes | None]]
) -> None:
    desk.spool.add(Spooled("one", b"12345678", (1,), 5, "70ce11a5"), reply)
    desk.delivery.say("one", b"token")
    desk.delivery.send("one", b"declined", reply)
    expected = [(topic, correlation) for _ in range(2) for topic, correlation in messages]
    assert [(topic, correlation) for topic, _, correlation in desk.sent] == expected


def test_event_goes_to_the_answer_topic_though_the_disk_does_not_say_where_else(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    desk.spool._db.execute("DROP TABLE request")
    desk.delivery.say("one", b"token")
    assert desk.sent == [(ANSWER, b"token", None)]
    assert "cannot be read" in caplog.text


# Last events ----------------------------------------------------------------------------------------------------------


def test_last_event_is_delivered_once_the_broker_has_it(desk: Desk) -> None:
    desk.ended()
    desk.wait(0)
    assert desk.undelivered() == ["one"]
    desk.acknowledge(0)
    desk.wait(0)
    assert desk.undelivered() == []
    assert desk.wait(1000) == 0


def test_last_event_that_is_never_acknowledged_keeps_no_other_from_being_delivered(desk: Desk) -> None:
    desk.ended("one")
    desk.ended("two")
    desk.acknowledge(1)
    desk.wait(0)
    assert desk.undelivered() == ["one"]


def test_last_event_is_delivered_only_when_every_topic_has_it(desk: Desk) -> None:
    desk.ended(reply=Reply(INBOX))
    desk.acknowledge(0)
    desk.wait(0)
    assert desk.undelivered() == ["one"]
    desk.acknowledge(1)
    desk.wait(0)
    assert desk.undelivered() == []


def test_last_event_that_is_not_acknowledged_is_sent_again_less_and_less_often(desk: Desk) -> None:
    desk.ended()
    for number in range(REPEATS):
        assert desk.wait(REPEAT_AFTER * 2**number - 1) == 0
        assert desk.wait(1) == 1
    assert desk.wait(1e6) == 0, "no more until the next connect"
    assert set(desk.sent) == {(ANSWER, b"one", None)}
    desk.acknowledge(2)
    desk.wait(0)
    assert desk.undelivered() == [], "whichever of them has arrived"


def test_last_event_that_could_not_be_sent_is_sent_again(desk: Desk) -> None:
    """The bridge had no room for it."""
    desk.full = True
    desk.ended()
    desk.acknowledge(0)
    desk.full = False
    assert desk.wait(REPEAT_AFTER) == 1
    assert desk.undelivered() == ["one"]
    desk.acknowledge(1)
    desk.wait(0)
    assert desk.undelivered() == []


def test_after_a_connect_all_that_has_not_arrived_is_sent_again_and_nothing_else(desk: Desk) -> None:
    desk.ended("one", Reply(INBOX, b"1"))
    desk.ended("two")
    desk.acknowledge(2)
    desk.wait(0)
    del desk.sent[:]
    desk.delivery.resume()
    assert desk.sent == [(ANSWER, b"one", b"1"), (INBOX, b"one", b"1")]
    assert desk.wait(REPEAT_AFTER) == 2, "and is looked after again"


def test_delivered_requests_are_forgotten_beyond_a_number(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "KEPT_REQUESTS", 1)
    for index, name in enumerate(["one", "two", "three"]):
        desk.ended(name)
        desk.acknowledge(index)
        desk.wait(0)
    assert [name for name in ("one", "two", "three") if desk.spool.find(name)] == ["three"]


def test_note_sends_nothing(desk: Desk) -> None:
    """When an agent ends, nothing takes messages any more; but what has arrived by then is not sent again."""
    desk.ended("one")
    desk.ended("two")
    desk.acknowledge(1)
    desk.clock += REPEAT_AFTER
    desk.delivery.note()
    assert len(desk.sent) == 2
    assert desk.undelivered() == ["one"]


def test_last_event_that_is_said_again_on_demand_is_looked_after_until_the_next_connect(desk: Desk) -> None:
    """It has arrived before; whoever still misses it asks again."""
    desk.ended()
    desk.acknowledge(0)
    desk.wait(0)
    desk.delivery.say("one", b"one", last=True)
    assert desk.wait(REPEAT_AFTER) == 1
    desk.delivery.resume()
    assert desk.wait(1e6) == 0


def test_last_events_sent_before_are_looked_after_though_the_disk_does_not_say_which_there_are(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    desk.ended()
    desk.spool._db.execute("ALTER TABLE request RENAME TO hidden")
    desk.delivery.resume()
    assert "cannot be read" in caplog.text
    assert desk.wait(REPEAT_AFTER) == 1
    desk.acknowledge(1)
    with pytest.raises(SpoolError):
        desk.wait(0)
    desk.spool._db.execute("ALTER TABLE hidden RENAME TO request")
    assert desk.undelivered() == ["one"]
    desk.wait(0)
    assert desk.undelivered() == [], "it is noted once that can be done"
