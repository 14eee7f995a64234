"""What MQTT 5 adds, over a real Mosquitto; everything else works as over 3.1.1."""

from __future__ import annotations

import math
import queue
import time
from typing import TYPE_CHECKING, Any

import pytest

from broker.address import BrokerAddress
from broker.client import Bridge
from broker.message import Message, Will
from broker.run import Engine, RunningBroker, start_broker
from tests.broker.two_brokers import cut

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.parametrize("engine", ["mosquitto"], indirect=True)
SECONDS = 10.0


class Make:
    """Bridges over either version, stopped at the end."""

    def __init__(self, broker: RunningBroker) -> None:
        self._broker = broker
        self.made: list[Bridge] = []

    def __call__(self, client_id: str = "", *, mqtt5: bool = True, **options: Any) -> Bridge:
        address = BrokerAddress(self._broker.host, self._broker.port, mqtt5=mqtt5)
        bridge = Bridge(address, client_id, reconnect_delay=(0.05, 0.2), **options)
        self.made.append(bridge)
        return bridge

    def up(self, client_id: str = "", *, mqtt5: bool = True, **options: Any) -> Bridge:
        bridge = self(client_id, mqtt5=mqtt5, **options)
        bridge.start()
        bridge.wait_up(SECONDS)
        return bridge


@pytest.fixture
def make(broker: RunningBroker) -> Iterator[Make]:
    make = Make(broker)
    yield make
    for bridge in make.made:
        bridge.stop(1)


def listen(bridge: Bridge, topic_filter: str, **options: Any) -> queue.Queue[Message]:
    inbox: queue.Queue[Message] = queue.Queue()
    bridge.subscribe(topic_filter, inbox.put, **options)
    return inbox


def test_a_retained_message_expires(make: Make) -> None:
    """The broker forgets it by itself; over 3.1.1 the wish is left out, and it stays."""
    make.up(mqtt5=False).publish("stays", b"x", retain=True, expiry=1)
    writer = make.up()
    writer.publish("goes", b"x", retain=True, expiry=1)
    writer.publish("stays too", b"x", retain=True)
    assert writer.flush(SECONDS)
    give_up = time.monotonic() + SECONDS
    while True:
        late = make()
        inbox = listen(late, "#")
        late.start()
        late.wait_up(SECONDS)
        late.publish("end", b"")
        topics: set[str] = set()
        while "end" not in topics:
            topics.add(inbox.get(timeout=SECONDS).topic)
        late.stop()
        if "goes" not in topics:
            assert topics == {"stays", "stays too", "end"}
            return
        assert time.monotonic() < give_up


def test_a_waiting_message_expires(make: Make) -> None:
    """What is no longer wanted does not wait for a client that is away."""
    device = make("device", clean=False)
    listen(device, "draft")
    device.start()
    device.wait_up(SECONDS)
    device.stop()
    app = make.up()
    app.publish("draft", b"old", expiry=0.5)
    assert app.flush(SECONDS)
    time.sleep(2.5)  # nothing tells when a waiting message has expired; the broker counts in whole seconds
    app.publish("draft", b"new", expiry=60)
    back = make("device", clean=False)
    inbox = listen(back, "draft")
    back.start()
    assert inbox.get(timeout=SECONDS).payload == b"new"


def test_an_answer_finds_the_one_who_asked(make: Make) -> None:
    """Response topic and correlation data come with the request, and the correlation goes back with the answer."""
    device, app = make(), make()
    asked, answered = listen(device, "ask"), listen(app, "my/answers")
    for bridge in (device, app):
        bridge.start()
        bridge.wait_up(SECONDS)
    app.publish("ask", b"why?", response_topic="my/answers", correlation=b"\x00\x01")
    request = asked.get(timeout=SECONDS)
    assert request == Message("ask", b"why?", 1, response_topic="my/answers", correlation=b"\x00\x01")
    assert request.response_topic is not None
    device.publish(request.response_topic, b"because", correlation=request.correlation)
    answer = answered.get(timeout=SECONDS)
    assert (answer.payload, answer.response_topic, answer.correlation) == (b"because", None, b"\x00\x01")


def test_a_message_that_paho_cannot_read_is_parted_with(make: Make) -> None:
    """A broker passes it on; plain paho ends the connection for it, and is sent it again by the next one, for ever."""
    downs: queue.Queue[str] = queue.Queue()
    device = make("device", clean=False, on_down=downs.put)
    inbox = listen(device, "ask", acknowledge="manual")
    device.start()
    device.wait_up(SECONDS)
    app = make.up()
    app.publish("ask", b"unreadable", response_topic="\ufeff")
    app.publish("ask", b"readable")
    assert inbox.get(timeout=SECONDS).payload == b"readable"
    assert downs.empty()
    cut(device)
    assert inbox.get(timeout=SECONDS).payload == b"readable"  # sent again, since it was not acknowledged


def test_both_versions_talk_to_each_other(make: Make) -> None:
    """One side's properties are not there for the other; nothing else differs."""
    old, new = make(mqtt5=False), make()
    to_old, to_new = listen(old, "old"), listen(new, "new")
    for bridge in (old, new):
        bridge.start()
        bridge.wait_up(SECONDS)
    new.publish("old", b"1", response_topic="new", correlation=b"x", expiry=60)
    assert to_old.get(timeout=SECONDS) == Message("old", b"1")
    old.publish("new", b"2", response_topic="old", correlation=b"x", expiry=60)
    assert to_new.get(timeout=SECONDS) == Message("new", b"2")


def test_a_persistent_session_is_resumed(make: Make) -> None:
    """After a lost connection, after a stop, and not with `clean`."""
    ups: queue.Queue[bool] = queue.Queue()
    device = make("device", clean=False, on_up=ups.put)
    inbox = listen(device, "ask", acknowledge="manual")
    device.start()
    assert ups.get(timeout=SECONDS) is False
    app = make.up()
    app.publish("ask", b"unspooled")
    assert inbox.get(timeout=SECONDS).payload == b"unspooled"
    cut(device)
    assert ups.get(timeout=SECONDS) is True
    again = inbox.get(timeout=SECONDS)
    assert again.payload == b"unspooled"
    again.acknowledge()
    device.stop()
    app.publish("ask", b"while away")
    assert app.flush(SECONDS)
    back = make("device", clean=False, on_up=ups.put)
    kept = listen(back, "ask")
    back.start()
    assert ups.get(timeout=SECONDS) is True
    assert kept.get(timeout=SECONDS).payload == b"while away"
    back.stop()
    make.up("device", on_up=ups.put)
    assert ups.get(timeout=SECONDS) is False


def test_will_and_retained_state(make: Make) -> None:
    watcher = make()
    seen = listen(watcher, "state")
    watcher.start()
    watcher.wait_up(SECONDS)
    careful = make.up(will=Will("state", b"gone"))
    careful.publish("state", b"online", retain=True)
    careful.stop()
    cut(make.up(will=Will("state", b"offline")))
    assert [seen.get(timeout=SECONDS).payload for _ in range(2)] == [b"online", b"offline"]


def test_more_messages_than_may_be_in_flight(monkeypatch: pytest.MonkeyPatch, engine: Engine) -> None:
    """A broker says how many it takes at once; more would end the connection."""
    monkeypatch.setattr("broker.mosquitto.MAX_INFLIGHT_MESSAGES", 10)
    reasons: queue.Queue[str] = queue.Queue()
    narrow = start_broker(engine, port=0)
    try:
        bridge = Make(narrow)(on_down=reasons.put)
        inbox = listen(bridge, "count")
        bridge.start()
        bridge.wait_up(SECONDS)
        assert bridge._client.max_inflight_messages == 10  # Mosquitto forgives more at QoS 1; other brokers do not
        for number in range(1000):
            bridge.publish("count", b"%d" % number)
        assert [int(inbox.get(timeout=SECONDS).payload) for _ in range(1000)] == list(range(1000))
        assert reasons.empty()
        bridge.stop()
    finally:
        narrow.stop()


def test_bad_expiry_and_response_topic_are_refused(make: Make) -> None:
    bridge = make()
    for expiry in (0, -1.0, math.nan):
        with pytest.raises(ValueError, match="more than 0"):
            bridge.publish("topic", b"", expiry=expiry)
    with pytest.raises(ValueError, match="not a topic"):
        bridge.publish("topic", b"", response_topic="a/+")
