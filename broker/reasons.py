"""Why a connection is not there, in plain words."""

from __future__ import annotations

import socket
import ssl
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from broker.address import BrokerAddress


def unreachable(address: BrokerAddress, error: BaseException | None) -> str:
    """Say why no connection could be opened."""
    match error:
        case ssl.SSLError():
            return (
                f"the broker at {address} and this client do not agree on TLS ({error.reason or error}): "
                "check the port and the certificate files"
            )
        case ConnectionRefusedError():
            why = "connection refused"
        case socket.gaierror():
            why = f"the name {address.host!r} is not known"
        case TimeoutError() | None:
            why = "no answer in time"
        case _:
            why = str(error)
    return (
        f"no broker answers at {address} ({why}): start one with `sled broker`, or give another address with --broker"
    )


def refused(address: BrokerAddress, why: str) -> str:
    """Say that the broker answered CONNECT with a return code other than 0 (MQTT 3.1.1, 3.2.2.3)."""
    return f"the broker at {address} refused the connection ({why.lower()}): check user name, password and client id"


def lost(address: BrokerAddress, why: str) -> str:
    """Say that a connection ended without being asked to."""
    reason = {"Unspecified error": "closed by the other side", "Keep alive timeout": "no answer to a ping"}
    return f"the connection to the broker at {address} was lost ({reason.get(why, why.lower())}); trying again"


def returning(address: BrokerAddress, left: BrokerAddress) -> str:
    """Say that a connection was closed to use a preferred broker again."""
    return f"the broker at {address} is back: leaving the one at {left}"
