"""A link between a role and its broker that can be made slow, and cut: a TCP proxy on loopback.

What a role sends to the link's address reaches the broker after `delay` seconds, and the other way round: a round trip
of 50 ms is a delay of 0.025. The bytes keep their order and nothing limits how many are on their way, so this is
latency and no bandwidth; what is due but not taken by the receiver stops the sender, as TCP would.
"""

from __future__ import annotations

import asyncio
import contextlib
import selectors
import threading
from typing import TYPE_CHECKING, Final, Self

from broker.address import BrokerAddress

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from types import TracebackType

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

    Raises:
        OSError: on entering: no port is free.
        ValueError: `delay` is negative.
    """

    def __init__(self, upstream: BrokerAddress | None = None, *, delay: float = 0.0) -> None:
        self.upstream = upstream
        self.delay = delay
        self._cut = False
        self._server: asyncio.Server | None = None
        self._port = 0
        self._open: set[asyncio.Task[None]] = set()
        # The default selector waits whole milliseconds, rounded up: too coarse for a delay of two and a half.
        self._loop = asyncio.SelectorEventLoop(selectors.SelectSelector())
        self._thread = threading.Thread(target=self._loop.run_forever, name="link", daemon=True)

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
        if not seconds >= 0:
            raise ValueError(f"A delay is a number of seconds from 0 on, but {seconds} was given.")
        self._delay = seconds

    def cut(self) -> None:
        """Break all connections, lose what is on its way, and refuse new ones until `mend`."""
        self._call(self._break())

    def mend(self) -> None:
        """Let connections through again."""
        self._cut = False

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
            far_reader, far_writer = await asyncio.open_connection(upstream.host, upstream.port)
            writers.append(far_writer)
            async with asyncio.TaskGroup() as ways:
                for way in (_Way(self, reader, far_writer), _Way(self, far_reader, writer)):
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

    def __init__(self, link: Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._link = link
        self._reader = reader
        self._writer = writer
        self._under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()  # when due, and what; empty at the end
        self._taken = asyncio.Event()
        self._taken.set()

    async def take_in(self) -> None:
        """Read until the sender ends, but not while the receiver is behind."""
        now, data = asyncio.get_running_loop().time, b"more"
        while data:
            await self._taken.wait()
            try:
                data = await self._reader.read(_CHUNK)
            except OSError:
                data = b""
            self._under_way.put_nowait((now() + self._link.delay, data))

    async def hand_on(self) -> None:
        """Write what is due, in order; where nobody takes it any more it is lost."""
        now, data = asyncio.get_running_loop().time, b"more"
        while data:
            due, data = await self._under_way.get()
            if due > now():
                await asyncio.sleep(due - now())
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
