"""Who a connection of the embedded broker belongs to, and what it may do there; its rules can be replaced."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from broker import password
from broker.access import Rulebook, client_id

if TYPE_CHECKING:
    from broker.access import Access, Action

_log = logging.getLogger(__name__)


class Guard:
    """Keeps the rules; used from the broker's event loop."""

    def __init__(self, access: Access) -> None:
        self._book = Rulebook(access)

    def replace(self, access: Access) -> None:
        """Decide by other rules from now on."""
        self._book = Rulebook(access)

    def knows(self, name: str | None) -> bool:
        """Whether somebody of this name may connect."""
        return name is not None and self._book.identity(name) is not None

    def may(self, name: str | None, action: Action, topic: str) -> bool:
        """Whether an identity may do something at a topic."""
        return self._book.may(name, action, topic)

    async def admit(self, session: Any) -> bool:
        """Find out who a session that asks for admission belongs to; its user name and client id become that name.

        Args:
            session: amqtt's, of a connection that has said CONNECT.
        """
        claimed = _common_name(session.ssl_object)
        proven = claimed is not None
        if not proven:
            claimed = session.username
        identity = None if claimed is None else self._book.identity(claimed)
        if identity is not None and not proven:
            proven = (
                identity.password is not None
                and session.password is not None
                and await asyncio.to_thread(password.matches, identity.password, session.password)
            )
        if identity is None or not proven:
            _log.warning(
                "a connection from %s as %r is refused: %s",
                session.remote_address,
                (claimed or "")[:80],
                "there is no such identity" if identity is None else "its password is wrong or missing",
            )
            return False
        session.username, session.client_id = identity.name, client_id(identity.name, session.client_id or "")
        return True


def _common_name(ssl_object: Any) -> str | None:
    """Return the one common name in the certificate that the client has proven to have, if it has shown one."""
    certificate = ssl_object.getpeercert() if ssl_object is not None else None
    names = [value for part in (certificate or {}).get("subject", ()) for key, value in part if key == "commonName"]
    return names[0] if len(names) == 1 else None
