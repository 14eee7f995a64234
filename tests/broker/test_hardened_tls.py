"""Gaps of amqtt 0.12.1 in TLS, shown on plain amqtt and closed in ours."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from broker.limits import BrokerLimits
from tests.broker.brokers import ALL, allow, both
from tests.broker.certificates import tls_of
from tests.broker.raw import ACCEPTED, RawClient

if TYPE_CHECKING:
    from broker.embedded import EmbeddedBroker
    from tests.broker.brokers import Start
    from tests.broker.certificates import Authority

OWN = allow(("{name}/#", ALL))


@pytest.mark.parametrize("certificate", [None, "revoked"], ids=["none", "revoked"])
@both
def test_certificate_that_is_not_good(
    start: Start, authority: Authority, closed: bool, certificate: str | None
) -> None:
    """Plain: a client without a certificate may go on to say a password, and one whose certificate is void gets in."""
    broker = start(closed=closed, access=OWN, tls=tls_of(authority))
    assert _lets_in(broker, authority, certificate) is not closed
    assert _lets_in(broker, authority, "pi")


@pytest.mark.parametrize("said", [b"", b"\x16\x03\x01\x02\x00\x01"], ids=["nothing", "half a word"])
@both
def test_handshake_that_does_not_come(start: Start, authority: Authority, closed: bool, said: bytes) -> None:
    """Plain: a connection on which no hands are shaken stays for a minute. In the meantime others get in."""
    limits = BrokerLimits(connect_seconds=1, connections=1)
    broker = start(closed=closed, access=OWN, tls=tls_of(authority), connections=1, limits=limits)
    with RawClient(broker) as silent:
        silent.send(said)
        assert _lets_in(broker, authority, "pi")
        assert silent.closed(4) == closed


def _lets_in(broker: EmbeddedBroker, authority: Authority, certificate: str | None) -> bool:
    try:
        with RawClient(broker, authority.client(certificate)) as client:
            return client.try_login("pi") == ACCEPTED
    except (OSError, EOFError):
        return False
