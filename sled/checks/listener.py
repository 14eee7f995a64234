"""What a broker's own machine needs: a program, files of TLS, rules, and that it answers with its certificate."""

from __future__ import annotations

import importlib.util
import ssl
from collections import Counter
from typing import TYPE_CHECKING, Final

from cryptography import x509

from broker.access import AccessInvalid
from broker.access_file import read_access
from broker.errors import BrokerStartError
from broker.mosquitto import find_mosquitto
from broker.port import lives
from broker.security import Security, place
from provisioning.certificate import serial
from sled.checks.check import Check, failed, ok, skipped, unknown, warning

if TYPE_CHECKING:
    from broker.tls import ServerTls

ENGINE: Final = "broker program"
FILES: Final = "TLS files"
RULES: Final = "access rules"
LISTENER: Final = "listener"

_PATIENCE: Final = 5.0
"""Seconds for an answer."""
_MISSING: Final = {
    "auto": ("no broker is installed", "install Mosquitto (Debian: apt install mosquitto)"),
    "mosquitto": ("Mosquitto is not installed", "install it (Debian: apt install mosquitto)"),
    "embedded": ("the embedded broker is not installed", "pip install 'sled-mqtt[broker]'"),
}


def check_engine(wanted: str) -> Check:
    """See that there is a broker to run.

    Args:
        wanted: `auto`, `mosquitto` or `embedded`.
    """
    mosquitto = find_mosquitto()
    if mosquitto is not None and wanted != "embedded":
        return ok(ENGINE, f"Mosquitto, {mosquitto}")
    if wanted != "mosquitto" and importlib.util.find_spec("amqtt") is not None:
        return ok(ENGINE, "the embedded one: it keeps nothing when it ends")
    return failed(ENGINE, *_MISSING[wanted])


def check_files(tls: ServerTls | None) -> Check:
    """See that the certificate, its key, the authority and the revocation list can be used together."""
    if tls is None:
        return skipped(FILES, "there are none: fine on loopback")
    try:
        tls.context()
    except BrokerStartError as error:
        return failed(FILES, f"{tls.certificate} cannot be used", str(error))
    clients = "none" if tls.ca is None else f"those of {tls.ca}"
    void = "" if tls.crl is None else f", but for {tls.crl}"
    return ok(FILES, f"{tls.certificate} and its key can be used; certificates of clients: {clients}{void}")


def check_rules(host: str, security: Security) -> Check:
    """See that it may listen where it should, and whom it will know; `host` is the address to listen at."""
    access = security.access
    try:
        place(host, security)
        rules = None if access is None else read_access(access)
    except BrokerStartError as error:
        return failed(RULES, f"it will not listen at {host}", str(error))
    except AccessInvalid as error:
        return failed(RULES, str(error), "have it written again: `sled ca rules --for embedded`")
    if rules is None:
        return skipped(RULES, f"there are none: everybody on this machine may do everything, at {host}")
    roles = sorted(Counter(identity.role for identity in rules.identities).items())
    return ok(RULES, f"{access}: {', '.join(f'{count} {role}' for role, count in roles) or 'nobody yet'}")


def check_listener(host: str, port: int, tls: ServerTls | None) -> Check:
    """See that it answers, with the certificate that its file holds.

    Args:
        host: address it listens at.
        port: that it listens at.
        tls: its files; None where it speaks without TLS.
    """
    where = f"{host}:{port}"
    if not lives(host, port, tls=tls is not None, timeout=_PATIENCE):
        return failed(
            LISTENER,
            f"nobody answers at {where}",
            "start it (`systemctl start sled-broker`, or `sled broker`); `journalctl -u sled-broker` says why it ended",
        )
    if tls is None:
        return ok(LISTENER, f"somebody answers at {where}, without TLS")
    try:
        shown = x509.load_pem_x509_certificate(ssl.get_server_certificate((host, port), timeout=_PATIENCE).encode())
        own = x509.load_pem_x509_certificate(tls.certificate.read_bytes())
    except (OSError, ValueError) as error:
        return unknown(LISTENER, f"whoever listens at {where} shows no certificate ({error})", "check the port")
    if shown != own:
        return warning(
            LISTENER,
            f"the certificate shown at {where} ({serial(shown)}) is not the one in {tls.certificate} ({serial(own)})",
            "have it read its files again: `systemctl restart sled-broker`",
        )
    return ok(LISTENER, f"it answers at {where}, with the certificate in {tls.certificate}")
