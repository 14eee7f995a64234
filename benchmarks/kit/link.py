"""A link between a role and its broker that can be made bad: a TCP proxy on loopback.

What a role sends to the link's address reaches the broker after `delay` seconds, and the other way round: a round trip
of 50 ms is a delay of 0.025. The bytes keep their order and nothing limits how many are on their way, so this is
latency and no bandwidth; what is due but not taken by the receiver stops the sender, as TCP would.

It breaks off in two ways. `cut` ends all connections, as a router that restarts: both sides know at once. `hold` keeps
them and everything on them, as a radio that is out of reach: nobody knows, and it all arrives after `resume`.

TCP itself loses and repeats nothing, so `loss` and `duplication` are for whole MQTT packets, and only for PUBLISH. A
QoS 1 PUBLISH that is not acknowledged is sent again after the next reconnect and not before (MQTT-4.4.0-1, and what
paho and Mosquitto do), so dropping one is to lose a message, and repeating one is what a reconnect does. Losing any
other packet is nothing that happens to a connection that lives: a CONNECT, a SUBSCRIBE or an acknowledgement that never
comes is a peer that breaks the protocol, which ends the connection or hangs it. `cut` and `hold` are for that.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import selectors
import threading
import time
from typing import TYPE_CHECKING, Final, Self

from benchmarks.kit.link_log import Changed, LinkEvent, LostTrack, Published, Set, Way
from benchmarks.kit.mqtt_packets import CONNACK, CONNECT, Packet, Packets
from broker.address import BrokerAddress

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from types import TracebackType

_log = logging.getLogger(__name__)

_CHUNK: Final = 1 << 16
_PATIENCE: Final = 10.0
"""Seconds that the link's own thread may take for what it is told."""


class Link:
    """A proxy on a thread of its own; it runs from entering to leaving. Settings may be changed while it runs.

        with Link(BrokerAddress(port=1883), delay=0.025) as link:
            agent = Agent(AgentOptions("pi", link.address), …)

    Attributes:
        upstream: where connections lead; None refuses them. Connections that exist stay where they are.
        delay: seconds one way, for what arrives from now on. Nothing overtakes what was sent before it.
        loss: the chance that a PUBLISH that arrives from now on is dropped, either way.
        duplication: the chance that it is passed on twice, if it is not dropped.

    Args:
        upstream: as above.
        delay: as above.
        seed: of what is dropped and what comes twice.
        tell: is called with everything the link does, mostly on the link's own thread.

    Raises:
        OSError: on entering: no port is free.
        ValueError: `delay` is negative, or a chance is none.
    """

    def __init__(
        self,
        upstream: BrokerAddress | None = None,
        *,
        delay: float = 0.0,
        seed: int = 0,
        tell: Callable[[LinkEvent], None] = lambda _: None,
    ) -> None:
        self.upstream = upstream
        self._tell = tell
        self._delay = _seconds(delay)
        self._loss = self._duplication = 0.0
        self._random = random.Random(seed)
        self._cut = False
        self._server: asyncio.Server | None = None
        self._port = 0
        self._open: set[asyncio.Task[None]] = set()
        # The default selector waits whole milliseconds, rounded up: too coarse for a delay of two and a half.
        self._loop = asyncio.SelectorEventLoop(selectors.SelectSelector())
        self._thread = threading.Thread(target=self._loop.run_forever, name="link", daemon=True)
        self._flowing = asyncio.Event()
        self._flowing.set()

    @property
    def address(self) -> BrokerAddress:
        """Where a role connects to instead of the broker; known while the link runs."""
        return BrokerAddress("127.0.0.1", self._port)

    @property
    def delay(self) -> float:
        """Seconds one way."""
        return self._delay

    @delay.setter
    def delay(self, seconds: float) -> None:
        self._delay = _seconds(seconds)
        self._tell(Set(time.monotonic(), "delay", seconds))

    @property
    def loss(self) -> float:
        """The chance that a PUBLISH is dropped."""
        return self._loss

    @loss.setter
    def loss(self, chance: float) -> None:
        self._loss = _chance(chance)
        self._tell(Set(time.monotonic(), "loss", chance))

    @property
    def duplication(self) -> float:
        """The chance that a PUBLISH that is not dropped comes twice."""
        return self._duplication

    @duplication.setter
    def duplication(self, chance: float) -> None:
        self._duplication = _chance(chance)
        self._tell(Set(time.monotonic(), "duplication", chance))

    def cut(self) -> None:
        """Break all connections, lose what is on its way, and refuse new ones until `mend`."""
        self._call(self._break())
        self._tell(Changed(time.monotonic(), "cut"))

    def mend(self) -> None:
        """Let connections through again."""
        self._cut = False
        self._tell(Changed(time.monotonic(), "mended"))

    def hold(self) -> None:
        """Let nothing through until `resume`; connections stay, and new ones wait."""
        self._call(self._set_flowing(flowing=False))
        self._tell(Changed(time.monotonic(), "held"))

    def resume(self) -> None:
        """Let what was held, and all else, through."""
        self._call(self._set_flowing(flowing=True))
        self._tell(Changed(time.monotonic(), "resumed"))

    def __enter__(self) -> Self:
        self._thread.start()
        try:
            self._call(self._listen())
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._call(self._close())
        self._end()

    def _call(self, work: Coroutine[object, object, None]) -> None:
        """Run on the link's thread and wait."""
        asyncio.run_coroutine_threadsafe(work, self._loop).result(_PATIENCE)

    def _end(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_PATIENCE)
        self._loop.close()

    # On the link's thread ---------------------------------------------------------------------------------------------

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self._port = self._server.sockets[0].getsockname()[1]

    async def _close(self) -> None:
        assert self._server is not None
        self._server.close()
        await self._break()

    async def _break(self) -> None:
        self._cut = True
        for task in self._open:
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)

    async def _set_flowing(self, *, flowing: bool) -> None:
        if flowing:
            self._flowing.set()
        else:
            self._flowing.clear()

    async def flowing(self) -> None:
        """Wait until nothing is held."""
        await self._flowing.wait()

    def decide(self, way: Way, packet: Packet) -> tuple[bytes, ...]:
        """Return what becomes of a packet: nothing, itself, or itself twice."""
        if packet.topic is None:
            return (packet.data,)
        now, size = time.monotonic(), len(packet.data)
        if self._random.random() < self._loss:
            self._tell(Published(now, way, packet.topic, size, "dropped"))
            return ()
        if self._random.random() < self._duplication:
            self._tell(Published(now, way, packet.topic, size, "duplicated"))
            return (packet.data, packet.again())
        self._tell(Published(now, way, packet.topic, size, "passed"))
        return (packet.data,)

    def lost_track(self, way: Way, why: str) -> None:
        """Say that the rest of a stream is no MQTT."""
        _log.warning(
            "what goes %s through the link at %s is no MQTT and is passed on as it is: %s", way, self._port, why
        )
        self._tell(LostTrack(time.monotonic(), way, why))

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._cut or self.upstream is None:
            writer.transport.abort()
            return
        task = asyncio.create_task(self._join(reader, writer, self.upstream))
        self._open.add(task)
        task.add_done_callback(self._open.discard)

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, upstream: BrokerAddress) -> None:
        """Pass bytes both ways until both sides have ended theirs or the link is cut."""
        writers = [writer]
        try:
            await self.flowing()
            far_reader, far_writer = await asyncio.open_connection(upstream.host, upstream.port)
            writers.append(far_writer)
            async with asyncio.TaskGroup() as ways:
                for way in (_Way(self, "up", reader, far_writer), _Way(self, "down", far_reader, writer)):
                    ways.create_task(way.take_in())
                    ways.create_task(way.hand_on())
            for each in writers:
                each.close()
                await each.wait_closed()
        except OSError:
            pass  # nobody is there any more; both sides see it below
        finally:
            for each in writers:
                each.transport.abort()


class _Way:
    """One direction of one connection.

    A side that breaks off ends its direction like one that closes: what it has sent before still arrives, such as the
    word that it leaves in good order.
    """

    def __init__(self, link: Link, way: Way, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._link = link
        self._way = way
        self._reader = reader
        self._writer = writer
        self._packets = Packets(CONNECT if way == "up" else CONNACK)
        self._under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()  # when due, and what; empty at the end
        self._taken = asyncio.Event()
        self._taken.set()

    async def take_in(self) -> None:
        """Read until the sender ends, but not while the receiver is behind or nothing gets through."""
        data = b"more"
        while data:
            await self._taken.wait()
            await self._link.flowing()
            try:
                data = await self._reader.read(_CHUNK)
            except OSError:
                data = b""
            if data:
                self._sort(data)
            else:
                self._send(self._packets.rest())
        self._under_way.put_nowait((self._due(), b""))

    def _sort(self, data: bytes) -> None:
        knew_its_way = not self._packets.lost_track
        for packet in self._packets.feed(data):
            for each in self._link.decide(self._way, packet):
                self._send(each)
        if knew_its_way and self._packets.lost_track:
            self._link.lost_track(self._way, self._packets.lost_track)

    def _send(self, data: bytes) -> None:
        if data:
            self._under_way.put_nowait((self._due(), data))

    def _due(self) -> float:
        return asyncio.get_running_loop().time() + self._link.delay

    async def hand_on(self) -> None:
        """Write what is due, in order; where nobody takes it any more it is lost."""
        now, data = asyncio.get_running_loop().time, b"more"
        while data:
            due, data = await self._under_way.get()
            if due > now():
                await asyncio.sleep(due - now())
            await self._link.flowing()
            if self._writer.transport.is_closing():
                continue
            with contextlib.suppress(OSError):
                if not data:
                    self._writer.write_eof()
                    return
                self._writer.write(data)
                self._taken.clear()
                await self._writer.drain()
            self._taken.set()


def _seconds(delay: float) -> float:
    if not delay >= 0:
        raise ValueError(f"A delay is a number of seconds from 0 on, but {delay} was given.")
    return delay


def _chance(chance: float) -> float:
    if not 0 <= chance <= 1:
        raise ValueError(f"A chance is a number from 0 to 1, but {chance} was given.")
    return chance
