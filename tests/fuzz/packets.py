"""MQTT itself: what clients send to the embedded broker, and what a broker passes on over MQTT 5."""

from __future__ import annotations

import asyncio
import struct
from typing import TYPE_CHECKING, Any

from amqtt.broker import Server
from hypothesis import strategies as st
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from broker.address import BrokerAddress
from broker.client import Bridge
from broker.hardened import HardenedBroker
from broker.limits import BrokerLimits
from edge_agent.intake import AskError, reply_wanted
from schemas.topics import Topics
from tests.broker.raw import DISCONNECT, PING, connect_frame, frame, publish_frame, text
from tests.fuzz.target import Target

if TYPE_CHECKING:
    from broker.message import Message

LIMITS = BrokerLimits(packet_bytes=2_000, retained_messages=50, retained_bytes=500_000, queued_messages=50)
MOST = 4 * 1024
"""Bytes of a stream: each of its hundreds of packets takes its time, in which others are served too."""
SECONDS = 20.0
"""In which a connection that has ended must have been dealt with."""


def targets() -> list[Target]:
    """Return those of the broker and of a device that is asked over MQTT 5."""
    return [
        Target("packets of a client", serve, (), STREAMS, _streams, weight=16),
        Target("message over MQTT 5", Device().receive, (AskError,), _messages()),
    ]


def subscribe_frame(*filters: str | bytes, mid: int = 1) -> bytes:
    return frame(0x82, struct.pack(">H", mid) + b"".join(text(each) + b"\1" for each in filters))


_HELLO = connect_frame("pi", clean=False, will="state", username="pi")
STREAMS = (
    _HELLO + subscribe_frame("sled/#", "+/ask") + publish_frame("sled/v1/device/pi/ask", b"why?") + PING + DISCONNECT,
    connect_frame("")
    + publish_frame("a", b"x", 7, qos=2) * 2
    + frame(0x62, b"\0\7")
    + subscribe_frame("b")
    + frame(0xA2, b"\0\1" + text("b")),
    _HELLO + subscribe_frame("a") + publish_frame("a", b"1", retain=True) + frame(0x40, b"\0\1") + frame(0x50, b"\0\1"),
    frame(0x10, text("MQTT") + b"\5\2\0\0\5\x11\0\0\0\0" + text("pi")) + frame(0x30, text("a") + b"\0x"),  # MQTT 5
    frame(0x10, text("MQIsdp") + b"\3\2\0\0" + text("pi")),
    connect_frame("flood") + PING * 200 + subscribe_frame(*(["a"] * 300)) + publish_frame("a", bytes(1_900), qos=0),
    _HELLO + _HELLO,
)


def _odd_text() -> st.SearchStrategy[bytes]:
    names = st.sampled_from([b"a", b"a/b", b"+", b"#", b"a/#/b", b"$SYS/x", b"$share/g/a", b"", b"\0", b"\xff", b"a+"])
    return names | st.text(max_size=20).map(lambda drawn: drawn.encode(errors="surrogatepass")) | st.binary(max_size=20)


def _framed() -> st.SearchStrategy[bytes]:
    """Packets whose lengths are right, whatever else is not."""
    mids = st.integers(0, 3).map(lambda mid: struct.pack(">H", mid))
    filters = st.lists(st.tuples(_odd_text().map(text), st.binary(max_size=1)).map(b"".join), max_size=5).map(b"".join)
    bodies = st.one_of(
        st.tuples(_odd_text().map(text), mids, st.binary(max_size=30)).map(b"".join),
        st.tuples(mids, filters).map(b"".join),
        mids,
        st.just(b""),
        st.binary(max_size=30),
    )
    return st.builds(frame, st.integers(0, 255), bodies)


_streams = st.tuples(
    st.sampled_from([_HELLO, connect_frame("desk"), connect_frame("desk", clean=False), b""]),
    st.lists(_framed() | st.sampled_from([PING, publish_frame("a", qos=2), subscribe_frame("#")]), max_size=8).map(
        b"".join
    ),
).map(b"".join)


def serve(stream: bytes) -> None:
    """Let the hardened broker serve a client without a socket, which is gone when it has sent this."""
    asyncio.run(_serve(stream[:MOST]))


async def _serve(stream: bytes) -> None:
    wrong: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: wrong.append(context))
    plugins: dict[str, dict[str, Any]] = {"amqtt.plugins.authentication.AnonymousAuthPlugin": {}}
    broker: Any = HardenedBroker({"listeners": {"default": {"type": "tcp"}}, "plugins": plugins}, limits=LIMITS)
    broker._servers["default"] = Server("default", None)
    reader = asyncio.StreamReader()
    reader.feed_data(stream)
    reader.feed_eof()
    async with asyncio.timeout(SECONDS):
        await broker.stream_connected(reader, Writer(), "default")
        while left := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(left)
    assert not broker._connections
    assert len(broker._retained_messages) <= LIMITS.retained_messages
    for client_id, (session, _) in list(broker._sessions.items()):
        assert len(session.inflight_in) <= LIMITS.inflight
        await broker._cleanup_session(client_id)
    assert not broker._subscriptions
    assert not broker._filters
    if wrong:
        raise RuntimeError(str(wrong[0]))


class Writer:
    """The sending side of a connection to nobody: what the broker uses of asyncio's, and of its transport."""

    def __init__(self) -> None:
        self.transport = self
        self._closed = False

    def get_extra_info(self, name: str) -> tuple[str, int] | None:
        return ("127.0.0.1", 1) if name == "peername" else None

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return self._closed

    def can_write_eof(self) -> bool:
        return False

    def write(self, data: bytes) -> None:
        pass

    def close(self) -> None:
        self._closed = True

    abort = close

    async def drain(self) -> None:
        pass

    async def wait_closed(self) -> None:
        pass


def _messages() -> tuple[bytes, ...]:
    """Return PUBLISH packets at QoS 1, without their first byte and length."""
    made = []
    for topic in ("my/answers", "sled/v1/device/pi/answer/q1", "$SYS/x", "sled/v1/device/nx/verdict", "\ufeff", "a/+"):
        properties: Any = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
        properties.ResponseTopic = topic
        properties.CorrelationData = b"\0\1"
        properties.UserProperty = [("key", "value"), ("key", "\ufeff")][: 1 + (topic == "\ufeff")]
        properties.MessageExpiryInterval = 60
        made.append(text("sled/v1/device/pi/ask") + b"\0\7" + properties.pack() + b"why?")
    return tuple(made)


class Device:
    """A device's bridge without a connection: each input is what a broker sends it as a message."""

    def __init__(self) -> None:
        self._bridge = Bridge(BrokerAddress("127.0.0.1", 1, mqtt5=True), "pi")
        self._bridge.subscribe("#", self._ask)
        self._refused: AskError | None = None
        self._topics = Topics()

    def receive(self, packet: bytes) -> None:
        """Take a message in, and find out where its answer goes; what paho cannot read is acknowledged."""
        client: Any = self._bridge._client
        client._in_packet.update(command=0x32, packet=bytearray(packet))
        client._handle_publish()
        client._out_packet.clear()
        assert self._bridge.callback_errors == 0
        refused, self._refused = self._refused, None
        if refused is not None:
            raise refused

    def _ask(self, message: Message) -> None:
        try:
            reply_wanted(message, self._topics, "pi")
        except AskError as error:
            self._refused = error
