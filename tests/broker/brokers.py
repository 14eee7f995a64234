"""Plain amqtt and the hardened broker side by side: a gap is shown on the one and closed in the other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import msgspec
import pytest
from amqtt.broker import Broker
from amqtt.plugins.base import BaseAuthPlugin

from broker.access import Access, Action, Identity, Rule
from broker.guard import Guard
from broker.hardened import HardenedBroker
from broker.password import hash_password

if TYPE_CHECKING:
    from collections.abc import Callable

    from broker.embedded import EmbeddedBroker
    from broker.limits import BrokerLimits
    from broker.tls import ServerTls


class Plain(Broker):  # type: ignore[misc]  # amqtt is not typed
    """Plain amqtt that at least closes its sockets in the end, so that tests leave nothing behind."""

    async def stream_connected(self, reader: Any, writer: Any, listener_name: str) -> None:
        try:
            await super().stream_connected(reader, writer, listener_name)
        finally:
            writer.close()


both = pytest.mark.parametrize("closed", [False, True], ids=["plain shows the gap", "hardened"])

ALL = tuple(Action)


def identities(*names: str) -> tuple[Identity, ...]:
    """Identities of the role `test`, each with its own name as password."""
    return tuple(Identity(name, "test", hash_password(name, iterations=1)) for name in names)


def allow(*rules: tuple[str, tuple[Action, ...]], names: tuple[str, ...] = ("pi", "gpu", "root")) -> Access:
    """Rules for all but `root`, who may do everything."""
    roles = {"test": tuple(Rule(topic, may) for topic, may in rules), "root": (Rule("#", ALL),)}
    known = (msgspec.structs.replace(one, role="root") if one.name == "root" else one for one in identities(*names))
    return Access(1, roles, tuple(known))


class NamesAndPasswords(BaseAuthPlugin):  # type: ignore[misc]  # amqtt is not typed
    """Lets in everybody whose password is the user name."""

    async def authenticate(self, *, session: Any) -> bool:
        return session.username is not None and session.username == session.password


class Start(Protocol):
    """Starts a broker: the hardened one, or plain amqtt in the same setting."""

    def __call__(
        self,
        *,
        closed: bool,
        access: Access | None = None,
        limits: BrokerLimits | None = None,
        plugins: dict[str, dict[str, Any]] | None = None,
        connections: int = 0,
        tls: ServerTls | None = None,
    ) -> EmbeddedBroker: ...


def maker(
    *,
    closed: bool,
    access: Access | None = None,
    limits: BrokerLimits | None = None,
    plugins: dict[str, dict[str, Any]] | None = None,
    connections: int = 0,
    tls: ServerTls | None = None,
) -> Callable[[dict[str, Any]], Any]:
    """Return what builds a broker; plain amqtt is given the same plugins and files, as far as they help it."""
    guard = None if access is None else Guard(access)
    context = None if tls is None else tls.context()

    def make(config: dict[str, Any]) -> Any:
        config["listeners"]["default"]["max_connections"] = connections
        if tls is not None:
            files = {"certfile": tls.certificate, "keyfile": tls.key, "cafile": tls.ca}
            config["listeners"]["default"] |= {"ssl": True} | files
        if guard is not None:
            config["plugins"] = {
                "broker.plugins.AccessAuthPlugin": {"guard": guard},
                "broker.plugins.AccessTopicPlugin": {"guard": guard},
            }
        if plugins is not None:
            config["plugins"] = plugins
        return HardenedBroker(config, guard=guard, limits=limits, tls=context) if closed else Plain(config)

    return make
