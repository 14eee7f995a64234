"""Whether a broker lets somebody in."""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.client import Bridge
from broker.errors import BrokerUnreachable

if TYPE_CHECKING:
    from sled.connection import Connection


def lets_in(connection: Connection) -> bool:
    """Whether the broker lets an identity in; who is in as it is thrown out for a moment."""
    with Bridge(connection.address, connection.client_id, tls=connection.tls, quiet=True) as bridge:
        try:
            bridge.wait_up(2)
        except BrokerUnreachable:
            return False
    return True
