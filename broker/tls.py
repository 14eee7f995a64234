"""How a client proves a broker, and itself, over TLS."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

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
