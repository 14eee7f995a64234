"""How clients and brokers prove themselves to each other over TLS."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING

from broker.errors import BrokerStartError
from broker.secret import exposed

if TYPE_CHECKING:
    from pathlib import Path

    from paho.mqtt.client import Client


@dataclass(frozen=True, slots=True)
class Tls:
    """Files in PEM format.

    Without `ca` the authorities of the system are trusted. `certificate` and `key` identify this client and are
    given together or not at all.

    Raises:
        ValueError: only one of `certificate` and `key` is given.
    """

    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None

    def __post_init__(self) -> None:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("a TLS client certificate and its key are given together: add the one that is missing")

    def apply(self, client: Client) -> None:
        """Have a paho client use these files.

        Raises:
            OSError: a file cannot be read, or is not what it should be (`ssl.SSLError`).
        """
        ca, certificate, key = (None if file is None else str(file) for file in (self.ca, self.certificate, self.key))
        client.tls_set(ca_certs=ca, certfile=certificate, keyfile=key)


@dataclass(frozen=True, slots=True)
class ServerTls:
    """Files in PEM format by which a broker proves itself, and its clients to it.

    Attributes:
        certificate: the broker's, with those between it and the authority behind it.
        key: of the certificate, without a password.
        ca: the authority of the clients. With it every client needs a certificate, whose common name is its user name;
            without it clients give user name and password.
        crl: the authority's list of revoked certificates. OpenSSL refuses everybody once its next update is overdue.

    Raises:
        ValueError: a revocation list is given without the authority that signed it.
    """

    certificate: Path
    key: Path
    ca: Path | None = None
    crl: Path | None = None

    def __post_init__(self) -> None:
        if self.crl is not None and self.ca is None:
            raise ValueError("a revocation list is of use only with the authority that signed it: add the authority")

    def context(self) -> ssl.SSLContext:
        """Return the settings of a listener: TLS 1.2 or newer.

        Raises:
            BrokerStartError: a file cannot be read, or is not what it should be; the sentence names it.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if self.ca is not None:
            context.verify_mode = ssl.CERT_REQUIRED
        if self.crl is not None:
            context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
        self.load(context)
        return context

    def load(self, context: ssl.SSLContext) -> None:
        """Load the files into a listener's settings, for the connections to come; OpenSSL takes the newest list.

        Raises:
            BrokerStartError: as `context`.
        """
        file = self.certificate
        try:
            for file in (self.key, self.certificate):
                file.read_bytes()  # OpenSSL does not say which of the two it could not read
            _see_that_it_is_secret(self.key)
            context.load_cert_chain(self.certificate, self.key, password=_no_password)
            for file in filter(None, (self.ca, self.crl)):
                context.load_verify_locations(file)
        except ssl.SSLError as error:
            raise BrokerStartError(f"{file} cannot be used for TLS ({error.reason or error}): {_ADVICE}") from error
        except OSError as error:
            raise BrokerStartError(f"{file} cannot be read ({error.strerror}): {_ADVICE}") from error


def _see_that_it_is_secret(key: Path) -> None:
    if mode := exposed(key):
        raise BrokerStartError(
            f"the key {key} has mode {mode}, so that others than its owner can get at it: run `chmod 600 {key}`, "
            "and if somebody may have read it, have a new one certified"
        )


_ADVICE = "give PEM files, the key being the certificate's own and without a password"


def _no_password() -> str:
    """Keep OpenSSL from asking on the terminal."""
    return ""
