"""A broker inside this process, for machines without Mosquitto: amqtt in a thread with an event loop of its own.

asyncio sets TCP_NODELAY on the sockets it accepts. `broker.hardened` lists what it does not do.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Self

from amqtt.errors import BrokerError as AmqttBrokerError

from broker import port as ports
from broker.access_file import read_access
from broker.errors import BrokerStartError
from broker.guard import Guard
from broker.hardened import HardenedBroker
from broker.limits import BrokerLimits
from broker.security import Security, place

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

_log = logging.getLogger(__name__)

_START_SECONDS: Final = 10.0
_SHUTDOWN_SECONDS: Final = 5.0


class EmbeddedBroker:
    """An MQTT 3.1.1 broker that lives as long as this object runs, and keeps everything in memory.

    Args:
        host: an address of this machine: of loopback, unless both TLS and access rules are given.
        port: where to listen; 0 picks a free port.
        security: TLS and access rules; without them everybody on this machine may do everything.
        limits: what clients may take.
        make: builds another broker from amqtt's configuration.
        plugins: further amqtt plugins, class path → options.

    Raises:
        BrokerStartError: the host is beyond loopback, and something is missing for that.
    """

    name: Final = "embedded"

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = 1883,
        *,
        security: Security | None = None,
        limits: BrokerLimits | None = None,
        make: Callable[[dict[str, Any]], Any] | None = None,
        plugins: dict[str, dict[str, Any]] | None = None,
    ) -> None:
        self._security = security or Security()
        self.host = place(host, self._security)
        self.port = port
        self._limits = limits or BrokerLimits()
        self._make = make
        self._plugins = plugins or {}
        self._guard: Guard | None = None
        self._context: ssl.SSLContext | None = None
        self._broker: Any = None
        self._thread: threading.Thread | None = None
        self._ready = threading.Event()
        self._error: BaseException | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._asked_to_stop: asyncio.Event | None = None

    def start(self) -> None:
        """Start it in a thread and return when it accepts connections.

        Raises:
            BrokerStartError: the port is in use, a file of TLS cannot be used, or amqtt did not start; says which.
            AccessInvalid: the access file cannot be used.
        """
        if self._thread is not None:
            raise BrokerStartError(f"the embedded broker at {self.host}:{self.port} was started before")
        security = self._security
        self._guard = None if security.access is None else Guard(read_access(security.access))
        self._context = None if security.tls is None else security.tls.context()
        self.port = ports.claim(self.host, self.port)
        self._ready.clear()
        self._thread = threading.Thread(target=self._run, name="sled-broker", daemon=True)
        self._thread.start()
        if not self._ready.wait(_START_SECONDS):
            raise BrokerStartError(f"the embedded broker did not start within {_START_SECONDS:g} s")
        error, self._error = self._error, None
        if error is not None:
            self.stop()
            raise BrokerStartError(f"the embedded broker did not start: {error}") from error

    def reload(self) -> None:
        """Read the files of TLS and the access file again; who is no longer known loses the connection.

        Raises:
            BrokerStartError, AccessInvalid: a file cannot be used; what was read before stays in force.
        """
        security, loop = self._security, self._loop
        if loop is None:
            return
        access = None if security.access is None else read_access(security.access)
        if security.tls is not None and self._context is not None:
            security.tls.context()  # all files can be used, or nothing is touched
            security.tls.load(self._context)
        if access is not None and self._broker is not None:
            loop.call_soon_threadsafe(self._broker.replace_access, access)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it has ended, at most `timeout` seconds; False if it still runs."""
        thread = self._thread
        if thread is not None:
            thread.join(timeout)
        return thread is None or not thread.is_alive()

    def stop(self) -> None:
        """Close every connection and end the thread. Does nothing if it does not run."""
        thread, loop, asked = self._thread, self._loop, self._asked_to_stop
        if thread is None:
            return
        if loop is not None and asked is not None and thread.is_alive():
            loop.call_soon_threadsafe(asked.set)
        thread.join(2 * _SHUTDOWN_SECONDS)
        self._thread = self._loop = self._asked_to_stop = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _run(self) -> None:
        try:
            with asyncio.Runner(loop_factory=_new_event_loop) as runner:
                runner.run(self._main())
        except Exception as error:  # noqa: BLE001 - told to whoever waits in start(), or logged
            self._error = error
            if self._ready.is_set():
                _log.exception("the embedded broker at %s:%d ended", self.host, self.port)
        finally:
            self._ready.set()

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._asked_to_stop = asyncio.Event()
        host = f"{self.host}:{self.port}"  # amqtt cuts at the last colon and does not want brackets
        plugins: dict[str, dict[str, Any]] = {"amqtt.plugins.authentication.AnonymousAuthPlugin": {}}
        if self._guard is not None:
            plugins = {
                f"broker.plugins.{name}": {"guard": self._guard} for name in ("AccessAuthPlugin", "AccessTopicPlugin")
            }
        make = self._make or partial(HardenedBroker, limits=self._limits, guard=self._guard, tls=self._context)
        # Plugins are named, so that amqtt's own default ones ($SYS topics, packet logging) stay out.
        self._broker = broker = make(
            {
                "listeners": {"default": {"type": "tcp", "bind": host, "max_connections": 0}},
                "plugins": plugins | self._plugins,
            }
        )
        await broker.start()
        self._ready.set()
        await self._asked_to_stop.wait()
        try:
            # A client that connected and never said CONNECT can hold this up for ever.
            await asyncio.wait_for(broker.shutdown(), _SHUTDOWN_SECONDS)
        except (TimeoutError, AmqttBrokerError) as error:
            _log.warning("the embedded broker did not shut down in good order: %s", error)


def _new_event_loop() -> asyncio.AbstractEventLoop:
    """Return uvloop's event loop where it is installed: a round trip takes about a seventh less."""
    try:
        import uvloop  # noqa: PLC0415 - not on every platform
    except ImportError:
        return asyncio.new_event_loop()
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop
