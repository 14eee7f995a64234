"""Where a broker is, as people write it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final
from urllib.parse import unquote, urlsplit

PLAIN_PORT: Final = 1883
TLS_PORT: Final = 8883
"""Ports registered with IANA for `mqtt` and `secure-mqtt`."""

# Scheme → TLS, MQTT 5.
_SCHEMES: Final = {"mqtt": (False, False), "mqtts": (True, False), "mqtt5": (False, True), "mqtt5s": (True, True)}


@dataclass(frozen=True, slots=True)
class BrokerAddress:
    """Host and port of a broker, and what to say when connecting to it.

    Attributes:
        tls: speak through TLS.
        mqtt5: speak MQTT 5 instead of 3.1.1.
    """

    host: str = "127.0.0.1"
    port: int = PLAIN_PORT
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    tls: bool = False
    mqtt5: bool = False

    def __str__(self) -> str:
        """Render `host:port`, IPv6 in brackets, never with the password."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @classmethod
    def parse(cls, text: str) -> BrokerAddress:
        """Read `host`, `host:port`, `mqtt://user:password@host:port`, `mqtts://…`, `mqtt5://…` or `mqtt5s://…`.

        An IPv6 address stands in brackets. The port defaults to 1883, through TLS to 8883. Characters such as
        `@` in a user name or password are percent-encoded (RFC 3986).

        Raises:
            ValueError: the text is none of these; the sentence says what is wrong with it.
        """
        scheme, separator, _ = text.partition("://")
        url = text if separator else f"mqtt://{text}"
        scheme = scheme.lower() if separator else "mqtt"
        if scheme not in _SCHEMES:
            raise ValueError(_sentence(text, f"the scheme {scheme!r} is not mqtt, mqtts, mqtt5 or mqtt5s"))
        if any(character.isspace() for character in text):
            raise ValueError(_sentence(text, "it contains white space"))
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError as error:
            raise ValueError(_sentence(text, str(error))) from error
        if not host:
            raise ValueError(_sentence(text, "the host is missing"))
        if parts.path not in ("", "/") or parts.query or parts.fragment:
            raise ValueError(_sentence(text, "nothing may follow the port"))
        if parts.netloc.endswith(":") or port == 0:
            raise ValueError(_sentence(text, "the port must be a number from 1 to 65535"))
        try:
            host.encode("idna")
        except UnicodeError as error:
            raise ValueError(_sentence(text, f"{host!r} is not a host name")) from error
        tls, mqtt5 = _SCHEMES[scheme]
        return cls(
            host=host,
            port=port or (TLS_PORT if tls else PLAIN_PORT),
            username=None if parts.username is None else unquote(parts.username),
            password=None if parts.password is None else unquote(parts.password),
            tls=tls,
            mqtt5=mqtt5,
        )


Addresses = BrokerAddress | tuple[BrokerAddress, ...]
"""One broker, or several in the order in which they are preferred."""


def parse_addresses(text: str) -> tuple[BrokerAddress, ...]:
    """Read one address, or several with commas between them, the preferred one first.

    A comma in a password is percent-encoded.

    Raises:
        ValueError: one is no address, or they do not go together; the sentence says why.
    """
    return check_addresses(tuple(BrokerAddress.parse(part.strip()) for part in text.split(",")))


def check_addresses(addresses: Addresses) -> tuple[BrokerAddress, ...]:
    """Return one or several addresses as a tuple, if one client can use all of them.

    Raises:
        ValueError: there is none, one is there twice, or they differ in TLS or in the version of MQTT.
    """
    several = addresses if isinstance(addresses, tuple) else (addresses,)
    if not several:
        raise ValueError("no broker address is given: give one at least")
    places = [(address.host, address.port) for address in several]
    if len(set(places)) < len(places):
        raise ValueError(f"{_listed(several)} names a broker twice: leave it out once")
    if len({(address.tls, address.mqtt5) for address in several}) > 1:
        raise ValueError(
            f"{_listed(several)} do not go together: write the same scheme (mqtt, mqtts, mqtt5 or mqtt5s) "
            "before each of them"
        )
    return several


def _listed(addresses: tuple[BrokerAddress, ...]) -> str:
    return ", ".join(map(str, addresses))


def _sentence(text: str, wrong: str) -> str:
    # A password given on the command line must not come back in an error that ends up in a log.
    shown = text.rpartition("@")[2] if "@" in text else text
    return f"{shown!r} is not a broker address: {wrong}; write host, host:port or mqtt://user:password@host:port"
