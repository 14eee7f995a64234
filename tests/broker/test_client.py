"""The bridge, over both brokers."""

from __future__ import annotations

import queue
import socket
import threading
from typing import TYPE_CHECKING

import pytest

from broker.address import BrokerAddress
from broker.client import Bridge
from broker.errors import BrokerUnreachable, OutgoingQueueFull, PayloadTooLarge
from broker.message import Message, Will
from broker.port import claim
from broker.receipt import Receipt
from broker.run import Engine, RunningBroker, start_broker

if TYPE_CHECKING:
    from tests.broker.conftest import MakeBridge

SECONDS = 5.0


def connected(bridge: Bridge) -> Bridge:
    """Start a bridge and wait until it is up."""
    bridge.start()
    bridge.wait_up(SECONDS)
    return bridge


def cut(bridge: Bridge) -> None:
    """Close the connection under a bridge, as a failing network would."""
    sock = bridge._client.socket()
    assert isinstance(sock, socket.socket)
    sock.shutdown(socket.SHUT_RDWR)


class Mailbox(queue.Queue[Message]):
    """A handler that keeps what it is given."""

    def next(self, timeout: float = SECONDS) -> Message:
        return self.get(timeout=timeout)


def test_echo(make_bridge: MakeBridge) -> None:
    """A payload of any bytes comes back unchanged at QoS 1, and bytes are counted."""
    payload, answers = bytes(range(256)), Mailbox()
    echo, asker = make_bridge(), make_bridge()
    echo.subscribe("echo/ask", lambda message: echo.publish("echo/answer", message.payload))
    asker.subscribe("echo/answer", answers.put)
    connected(echo)
    connected(asker).publish("echo/ask", payload)
    message = answers.next()
    assert message == Message("echo/answer", payload, 1, retain=False)
    assert (asker.bytes_sent, asker.bytes_received) == (256, 256)


def test_nodelay_is_set(make_bridge: MakeBridge) -> None:
    """The first socket and the one after a reconnect send at once."""
    ups: queue.Queue[bool] = queue.Queue()
    bridge = make_bridge(on_up=ups.put)
    bridge.start()
    for _ in range(2):
        ups.get(timeout=SECONDS)
        sock = bridge._client.socket()
        assert isinstance(sock, socket.socket)
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
        cut(bridge)


def test_raising_handler_leaves_the_network_thread_alive(
    make_bridge: MakeBridge, caplog: pytest.LogCaptureFixture
) -> None:
    """What a handler raises is logged with its traceback and counted; the next message arrives."""
    bridge, received = make_bridge(), Mailbox()

    def fail_once(message: Message) -> None:
        if message.payload == b"bad":
            raise LookupError("nobody expects this")
        received.put(message)

    bridge.subscribe("topic", fail_once)
    connected(bridge)
    bridge.publish("topic", b"bad")
    bridge.publish("topic", b"good")
    assert received.next().payload == b"good"
    assert bridge.callback_errors == 1
    assert "nobody expects this" in caplog.text
    assert "Traceback" in caplog.text


def test_raising_on_up_leaves_the_network_thread_alive(make_bridge: MakeBridge) -> None:
    """The same holds for the callbacks about the connection."""

    def fail(*_: object) -> None:
        raise LookupError("on_up")

    bridge = make_bridge(on_up=fail, on_down=fail)
    connected(bridge)
    assert bridge.callback_errors == 1
    assert bridge._client.is_connected()


def test_comes_back_after_the_broker_restarted(broker: RunningBroker, engine: Engine, make_bridge: MakeBridge) -> None:
    """The broker dies without a word and returns: the bridge says so, subscribes again and sends what waited."""
    reasons: queue.Queue[str] = queue.Queue()
    ups: queue.Queue[bool] = queue.Queue()
    received = Mailbox()
    bridge = make_bridge(on_up=ups.put, on_down=reasons.put)
    bridge.subscribe("topic", received.put)
    connected(bridge)
    ups.get(timeout=SECONDS)
    if engine == "mosquitto":
        process = broker._process  # type: ignore[attr-defined]  # kill -9, not stop()
        process.kill()
        process.wait(SECONDS)
    else:
        broker.stop()
    assert "was lost" in reasons.get(timeout=SECONDS)
    for number in range(3):
        bridge.publish("topic", b"%d" % number)
    again = start_broker(engine, broker.host, broker.port)
    try:
        assert ups.get(timeout=SECONDS) is False
        assert [received.next().payload for _ in range(3)] == [b"0", b"1", b"2"]
        assert bridge.flush(SECONDS)
        bridge.stop()
    finally:
        again.stop()


def test_broker_down_at_start(engine: Engine) -> None:
    """Starting returns at once, the reason is given in plain words, and the bridge is up once the broker is."""
    port = claim("127.0.0.1", 0)
    reasons: queue.Queue[str] = queue.Queue()
    bridge = Bridge(BrokerAddress("127.0.0.1", port), reconnect_delay=(0.05, 0.2), on_down=reasons.put)
    bridge.start()
    sentence = (
        f"no broker answers at 127.0.0.1:{port} (connection refused): "
        "start one with `sled broker`, or give another address with --broker"
    )
    assert reasons.get(timeout=SECONDS) == sentence
    with pytest.raises(BrokerUnreachable) as caught:
        bridge.wait_up(0.01)
    assert str(caught.value) == sentence
    broker = start_broker(engine, "127.0.0.1", port)
    try:
        bridge.wait_up(SECONDS)
        assert reasons.empty()  # the same reason is not repeated
        bridge.stop()
    finally:
        broker.stop()


def test_unknown_host() -> None:
    """A name nobody knows is called so."""
    bridge = Bridge(BrokerAddress("broker.invalid"), reconnect_delay=(0.05, 0.2))
    reasons: queue.Queue[str] = queue.Queue()
    bridge._on_down = reasons.put
    bridge.start()
    assert "'broker.invalid' is not known" in reasons.get(timeout=SECONDS)
    bridge.stop()


def test_will_is_published_when_the_connection_breaks(make_bridge: MakeBridge) -> None:
    """A broken connection publishes the last will, retained; a stop does not."""
    watcher, seen = make_bridge(), Mailbox()
    watcher.subscribe("state", seen.put)
    connected(watcher)
    careful = connected(make_bridge(will=Will("state", b"gone")))
    careful.stop()
    careless = connected(make_bridge(will=Will("state", b"offline")))
    cut(careless)
    assert seen.next().payload == b"offline"
    late, seen_late = make_bridge(), Mailbox()
    late.subscribe("state", seen_late.put)
    connected(late)
    assert seen_late.next() == Message("state", b"offline", 1, retain=True)


def test_retained_state_reaches_a_late_subscriber(make_bridge: MakeBridge) -> None:
    """What is retained arrives marked so; what is published live arrives unmarked; an empty payload clears it."""
    early = connected(make_bridge())
    early.publish("state", b"online", retain=True)
    assert early.flush(SECONDS)
    late, seen = make_bridge(), Mailbox()
    late.subscribe("state", seen.put)
    connected(late)
    assert seen.next() == Message("state", b"online", 1, retain=True)
    early.publish("state", b"", retain=True)
    assert seen.next() == Message("state", b"", 1, retain=False)
    nobody, nothing = make_bridge(), Mailbox()
    nobody.subscribe("state", nothing.put)
    nobody.subscribe("end", nothing.put)
    connected(nobody)
    early.publish("end", b"")
    assert nothing.next().topic == "end"


def test_unacknowledged_message_is_sent_again(make_bridge: MakeBridge) -> None:
    """A message not acknowledged by hand returns with the session; one that was does not."""
    device, inbox, ups = make_bridge("device", clean=False), Mailbox(), queue.Queue[bool]()
    device._on_up = ups.put
    device.subscribe("ask", inbox.put, acknowledge="manual")
    connected(device)
    assert ups.get(timeout=SECONDS) is False
    app = connected(make_bridge())
    app.publish("ask", b"first")
    app.publish("ask", b"second")
    spooled, forgotten = inbox.next(), inbox.next()
    spooled.acknowledge()
    spooled.acknowledge()  # twice does no harm
    device.publish("seen", b"")
    assert device.flush(SECONDS)  # the broker has had the acknowledgement before it
    cut(device)
    assert ups.get(timeout=SECONDS) is True
    again = inbox.next()
    assert again.payload == b"second"
    forgotten.acknowledge()  # of a connection that is gone: must not acknowledge a message of this one
    again.acknowledge()
    device.publish("seen", b"")
    assert device.flush(SECONDS)
    cut(device)
    ups.get(timeout=SECONDS)
    app.publish("ask", b"third")
    assert inbox.next().payload == b"third"


def test_messages_wait_for_a_session_that_is_away(make_bridge: MakeBridge) -> None:
    """A persistent session gets what came while it was away, in order, as live messages."""
    device = make_bridge("device", clean=False)
    device.subscribe("ask", lambda _: None)
    connected(device).stop()
    app = connected(make_bridge())
    for number in range(5):
        app.publish("ask", b"%d" % number)
    assert app.flush(SECONDS)
    back, inbox = make_bridge("device", clean=False), Mailbox()
    back.subscribe("ask", inbox.put)
    connected(back)
    messages = [inbox.next() for _ in range(5)]
    assert [message.payload for message in messages] == [b"0", b"1", b"2", b"3", b"4"]
    assert not any(message.retain for message in messages)


def test_order_is_kept_across_a_broken_connection(make_bridge: MakeBridge) -> None:
    """Messages published before, during and after an interruption arrive in order (repeats aside)."""
    receiver, inbox = make_bridge(), Mailbox()
    receiver.subscribe("count", inbox.put)
    connected(receiver)
    ups: queue.Queue[bool] = queue.Queue()
    sender = connected(make_bridge(on_up=ups.put))
    for number in range(600):
        sender.publish("count", b"%d" % number)
        if number % 200 == 100:
            ups.get(timeout=SECONDS)
            cut(sender)
    assert sender.flush(SECONDS)
    sender.publish("count", b"600")
    seen: list[int] = []
    while not seen or seen[-1] != 600:
        seen.append(int(inbox.next().payload))
    first_sight = list(dict.fromkeys(seen))
    assert first_sight == list(range(601))


def test_queue_full_while_down() -> None:
    """A bridge that is down takes as many messages as allowed and refuses the next; QoS 0 is dropped in silence."""
    bridge = Bridge(BrokerAddress(), max_outgoing=2)
    bridge.publish("topic", b"", qos=0)
    bridge.publish("topic", b"1")
    bridge.publish("topic", b"2")
    with pytest.raises(OutgoingQueueFull, match="2 messages wait"):
        bridge.publish("topic", b"3")


def test_queue_full_while_up(make_bridge: MakeBridge) -> None:
    """A broker that does not acknowledge fast enough fills the same queue."""
    outcome: queue.Queue[BaseException | None] = queue.Queue()

    def publish_two(_: Message) -> None:  # no acknowledgement is read before this returns
        try:
            bridge.publish("topic", b"1")
            bridge.publish("topic", b"2")
        except OutgoingQueueFull as error:
            outcome.put(error)

    bridge = make_bridge(max_outgoing=1)
    bridge.subscribe("go", publish_two)
    connected(bridge)
    connected(make_bridge()).publish("go", b"")
    assert "was not taken" in str(outcome.get(timeout=SECONDS))
    assert bridge.flush(SECONDS)


def test_bad_publish_is_refused() -> None:
    """What no broker would take is refused where it is published."""
    bridge = Bridge(BrokerAddress(), max_payload=10)
    with pytest.raises(PayloadTooLarge, match="11 bytes, more than the 10"):
        bridge.publish("topic", bytes(11))
    for topic in ("", "a/+", "a/#", "a\0", "a" * 70_000):
        with pytest.raises(ValueError, match="not a topic"):
            bridge.publish(topic, b"")
    with pytest.raises(ValueError, match="QoS 2"):
        bridge.publish("topic", b"", qos=2)


@pytest.mark.parametrize("topic_filter", ["", "a/#/b", "a#", "a+/b", "a/b+", "a\0"])
def test_bad_filter_is_refused(topic_filter: str) -> None:
    """A filter that breaks the rules is refused where it is written."""
    with pytest.raises(ValueError, match="not a topic filter"):
        Bridge(BrokerAddress()).subscribe(topic_filter, lambda _: None)


def test_bad_session_is_refused() -> None:
    """A persistent session without a name, and a QoS that is not used, are refused at once."""
    with pytest.raises(ValueError, match="needs a client id"):
        Bridge(BrokerAddress(), clean=False)
    with pytest.raises(ValueError, match="QoS 2"):
        Bridge(BrokerAddress()).subscribe("topic", lambda _: None, qos=2)


def test_waiting_on_the_network_thread_is_refused(make_bridge: MakeBridge) -> None:
    """Waiting inside a handler would wait for itself, and is an error instead."""
    bridge, errors = make_bridge(), queue.Queue[str]()

    def wait(_: Message) -> None:
        for call in (lambda: bridge.flush(1), lambda: bridge.wait_up(1), lambda: bridge.stop(1)):
            try:
                call()
            except RuntimeError as error:
                errors.put(str(error))

    bridge.subscribe("topic", wait)
    connected(bridge).publish("topic", b"")
    for what in ("flush", "wait_up", "stop"):
        assert errors.get(timeout=SECONDS).startswith(f"{what} would wait")


def test_subscribe_and_unsubscribe_while_up(make_bridge: MakeBridge) -> None:
    """Subscriptions can come and go at any time."""
    bridge, ones, twos = connected(make_bridge()), Mailbox(), Mailbox()
    bridge.subscribe("one/+", ones.put)
    bridge.publish("one/a", b"1")
    assert ones.next().topic == "one/a"
    bridge.unsubscribe("one/+")
    bridge.subscribe("two/#", twos.put)
    bridge.publish("one/a", b"1")
    bridge.publish("two", b"2")
    assert twos.next().topic == "two"
    assert ones.empty()


def test_stop_sends_what_waits(make_bridge: MakeBridge) -> None:
    """Messages published just before a stop arrive, all of them; a stopped bridge refuses more."""
    receiver, inbox = make_bridge(), Mailbox()
    receiver.subscribe("last", inbox.put)
    connected(receiver)
    sender = connected(make_bridge())
    for number in range(200):
        sender.publish("last", b"%d" % number)
    sender.stop()
    assert [int(inbox.next().payload) for _ in range(200)] == list(range(200))
    with pytest.raises(BrokerUnreachable, match="was stopped"):
        sender.publish("last", b"")
    with pytest.raises(RuntimeError, match="make a new one"):
        sender.start()


def test_stop_while_the_broker_is_away() -> None:
    """Stopping does not wait for a broker that is not there, and wakes whoever waits for it."""
    bridge = Bridge(BrokerAddress("127.0.0.1", claim("127.0.0.1", 0)), reconnect_delay=(0.05, 0.2))
    outcome: queue.Queue[str] = queue.Queue()

    def wait() -> None:
        with pytest.raises(BrokerUnreachable) as caught:
            bridge.wait_up(SECONDS)
        outcome.put(str(caught.value))

    bridge.start()
    bridge.publish("topic", b"")
    waiter = threading.Thread(target=wait)
    waiter.start()
    bridge.stop()
    assert "was stopped" in outcome.get(timeout=SECONDS)
    waiter.join(SECONDS)


def test_receipt_says_when_the_broker_has_a_message(make_bridge: MakeBridge) -> None:
    bridge, receipt = make_bridge(), Receipt()
    bridge.publish("topic", b"x", receipt=receipt)
    assert not receipt.acknowledged
    connected(bridge)
    assert bridge.flush(SECONDS)
    bridge.stop()
    assert receipt.acknowledged
