"""The place a broker listens at: is it ours to take, and does a broker answer there."""

from __future__ import annotations

import errno
import socket
import ssl
import time
from typing import TYPE_CHECKING, Final

from broker.errors import BrokerStartError

if TYPE_CHECKING:
    from collections.abc import Callable

_POLL_SECONDS: Final = 0.02

# CONNECT with protocol level 4, clean session, keepalive 10 s and client id "sled-probe" (MQTT 3.1.1, 3.1).
_CONNECT: Final = b"\x10\x16\x00\x04MQTT\x04\x02\x00\x0a\x00\x0asled-probe"
_CONNACK_ACCEPTED: Final = b"\x20\x02\x00\x00"
_DISCONNECT: Final = b"\xe0\x00"


def claim(host: str, port: int) -> int:
    """See that a port of a loopback address is free; port 0 picks one. Returns the port.

    Raises:
        BrokerStartError: it is in use, or may not be used.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as claimed:
        claimed.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the brokers do: TIME_WAIT is no occupant
        try:
            claimed.bind((host, port))
            claimed.listen(1)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise BrokerStartError(
                    f"port {port} on {host} is in use: stop the other broker or choose another port with --port"
                ) from error
            raise BrokerStartError(f"port {port} on {host} cannot be used ({error.strerror})") from error
        return int(claimed.getsockname()[1])


def answers(host: str, port: int, timeout: float = 1.0) -> bool:
    """Whether a broker accepts an MQTT 3.1.1 connection there within `timeout` seconds."""
    try:
        with socket.create_connection((host, port), timeout) as connection:
            connection.sendall(_CONNECT)
            answer = connection.recv(len(_CONNACK_ACCEPTED), socket.MSG_WAITALL)
            connection.sendall(_DISCONNECT)
    except OSError:
        return False
    return answer == _CONNACK_ACCEPTED


def lives(host: str, port: int, *, tls: bool, timeout: float) -> bool:
    """Whether the broker there says anything to a newcomer within `timeout` seconds, be it that it wants it not.

    A program that hangs says nothing: the system takes connections for it, but neither speaks nor closes them.
    """
    try:
        with socket.create_connection((host, port), timeout) as connection:
            if tls:
                _stranger().wrap_socket(connection).close()
            else:
                connection.sendall(_CONNECT)
                connection.recv(1)
    except (TimeoutError, ConnectionRefusedError):
        return False
    except OSError:
        return True
    return True


def _stranger() -> ssl.SSLContext:
    """Return what a client has that trusts anybody, and that nobody has to trust."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def await_answer(host: str, port: int, *, within: float, check: Callable[[], object]) -> None:
    """Wait until a broker answers there.

    Args:
        host: of the broker.
        port: of the broker.
        within: seconds.
        check: called while there is no answer; raises where waiting has become pointless.

    Raises:
        TimeoutError: none answered in time.
    """
    give_up = time.monotonic() + within
    while not answers(host, port):
        check()
        if time.monotonic() > give_up:
            raise TimeoutError(f"no broker answered at {host}:{port} within {within:g} s")
        time.sleep(_POLL_SECONDS)
