"""Whether the broker's machine can be reached: its name, its port, and TLS with whoever listens there."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import ssl
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, NamedTuple

from cryptography import x509

from broker.tls import Tls
from provisioning.certificate import shown
from sled.checks.check import Check, Outcome, failed, ok, skipped, warning

if TYPE_CHECKING:
    from collections.abc import Sequence

    from broker.address import BrokerAddress

PATIENCE: Final = 5.0
"""Seconds for each step."""
_LATE_ALERT: Final = 0.5
"""Seconds in which a broker that does not want this machine's certificate says so: in TLS 1.3 only after it has
answered, since the client speaks first (RFC 8446, 4.6.2 and appendix D)."""

_OUR_CERTIFICATE: Final = {
    "REVOKED": "was revoked: if this machine is not to be locked out, enrol it again",
    "EXPIRED": "has expired, by the broker's clock: enrol again with a new token, if that clock is right",
    "UNKNOWN_CA": "is not of an authority that the broker trusts: enrol in this broker's fleet, or give the broker the "
    "fleet's ca.pem",
    "REQUIRED": "is missing: the broker lets nobody in without one; name its folder with --identity",
    "BAD_CERTIFICATE": "is not accepted: see the broker's log",
    "UNSUPPORTED_CERTIFICATE": "is for another use: a broker's certificate is nobody's client",
    "UNKNOWN": "is not accepted: see the broker's log; a revocation list that is out of date shuts out everybody",
}
"""What an alert of the broker says about the certificate it was shown: words in OpenSSL's name of it → the sentence."""

_TRUST: Final = {
    "self-signed": "its certificate is self-signed or of another authority",
    "self signed": "its certificate is self-signed or of another authority",
    "local issuer": "its certificate is of another authority than the one trusted here",
    "hostname mismatch": "its certificate is for other hosts",
    "ip address mismatch": "its certificate is for other hosts",
    "expired": "its certificate has expired",
    "not yet valid": "its certificate is not valid yet, by this machine's clock",
    "crl": "its revocation list cannot be used",
}
"""What OpenSSL says about a broker's certificate → what it means."""


class Reached(NamedTuple):
    """What was found on the way to a broker.

    Attributes:
        checks: name, port and TLS.
        open: whether MQTT can be spoken there.
        begun: since when the broker's certificate is valid, if it showed one that is trusted.
    """

    checks: tuple[Check, ...]
    open: bool
    begun: datetime | None = None


def reach(address: BrokerAddress, tls: Tls | None) -> Reached:
    """Go as far towards a broker as one can without speaking MQTT.

    Args:
        address: of the broker.
        tls: files to use for TLS; None for the system's authorities, where the address asks for TLS.
    """
    name, port, secured = (f"{step} ({address})" for step in ("name", "port", "TLS"))
    no_way = skipped(port, "the name is not known"), skipped(secured, "the name is not known")
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        why = f"{address.host!r} is not known ({error})"
        do = "check the spelling of --broker and this machine's DNS (`getent hosts`), or give the address in numbers"
        return Reached((failed(name, why, do), *no_way), open=False)
    numbers = ", ".join(sorted({str(entry[4][0]) for entry in found}))
    known = ok(name, f"{address.host} is {numbers}")
    begun = time.perf_counter()
    try:
        connection = socket.create_connection((address.host, address.port), PATIENCE)
    except OSError as error:
        unreached = failed(port, _why_not(error), _what_then(error))
        return Reached((known, unreached, skipped(secured, "the port cannot be reached")), open=False)
    with connection:
        there = ok(port, f"answers in {(time.perf_counter() - begun) * 1e3:.1f} ms")
        if not address.tls and tls is None:
            return Reached((known, there, judge_plain(secured, numbers.split(", "))), open=True)
        spoken, since = _speak_tls(connection, address, tls or Tls(), secured)
    return Reached((known, there, spoken), open=spoken.outcome is not Outcome.FAILED, begun=since)


def judge_plain(name: str, numbers: Sequence[str]) -> Check:
    """Say what it means that TLS is not used.

    Args:
        name: of the check.
        numbers: addresses of the broker.
    """
    if all(ipaddress.ip_address(number.partition("%")[0]).is_loopback for number in numbers):
        return skipped(name, "the address is without TLS, which is fine on loopback")
    return warning(
        name,
        "the address is without TLS: whoever is on the way reads prompts and answers, and can alter them",
        "give the broker a certificate (`sled device create … --role broker`), and write mqtts://",
    )


def _speak_tls(connection: socket.socket, address: BrokerAddress, tls: Tls, name: str) -> tuple[Check, datetime | None]:
    try:
        context = client_context(tls)
    except (OSError, ssl.SSLError) as error:
        return failed(name, f"the files for TLS cannot be used ({error})", "enrol this machine again"), None
    connection.settimeout(PATIENCE)
    try:
        with context.wrap_socket(connection, server_hostname=address.host) as secured:
            return _spoken(secured, name)
    except ssl.SSLCertVerificationError as error:
        return failed(name, _distrust(error), _how_to_trust(error, address)), None
    except ssl.SSLError as error:
        return failed(name, *_alert(error)), None
    except TimeoutError:
        return failed(name, "whoever listens there does not speak TLS", "check the port: TLS is usually at 8883"), None
    except OSError as error:
        return failed(name, f"the broker ended the connection ({error})", "see the broker's log"), None


def _spoken(secured: ssl.SSLSocket, name: str) -> tuple[Check, datetime | None]:
    version = secured.version() or "unknown"
    shown_certificate = x509.load_der_x509_certificate(secured.getpeercert(binary_form=True) or b"")
    secured.settimeout(_LATE_ALERT)
    with contextlib.suppress(TimeoutError):
        if secured.recv(1) == b"":
            return failed(name, "the broker ended the connection", "see the broker's log for why"), None
    begins, ends = shown_certificate.not_valid_before_utc, shown_certificate.not_valid_after_utc
    return judge_trusted(name, version, begins, ends, datetime.now(UTC)), begins


def judge_trusted(name: str, version: str, begins: datetime, ends: datetime, now: datetime) -> Check:
    """Say until when a broker's certificate is good; nobody gets in once it is not, and nothing renews it by itself.

    Args:
        name: of the check.
        version: of TLS, as OpenSSL calls it.
        begins: of the certificate.
        ends: of the certificate.
        now: with a time zone.
    """
    found = (
        f"{version.replace('TLSv', 'TLS ')}; the broker's certificate is trusted, for this host, until {shown(ends)}"
    )
    if ends - now > (ends - begins) / 3:
        return ok(name, found)
    return warning(
        name,
        f"{found}: in {max(0, (ends - now).days)} days nobody gets in any more",
        "renew it beside the authority, by the command that made it (`sled device create NAME --role broker "
        "--host HOST --identity …`), and restart the broker",
    )


def client_context(tls: Tls) -> ssl.SSLContext:
    """Return what a client speaks TLS with: 1.2 or newer, the broker's chain and host name checked.

    Raises:
        OSError: a file cannot be read, or is not what it should be (`ssl.SSLError`).
    """
    context = ssl.create_default_context(cafile=None if tls.ca is None else str(tls.ca))
    if tls.certificate is not None:
        context.load_cert_chain(tls.certificate, tls.key, password=_no_password)
    return context


def _no_password() -> str:
    """Keep OpenSSL from asking on the terminal."""
    return ""


def _why_not(error: OSError) -> str:
    match error:
        case ConnectionRefusedError():
            return "nobody listens there (connection refused)"
        case TimeoutError():
            return f"no answer within {PATIENCE:.0f} s: something drops what is sent there"
        case _:
            return f"cannot be reached ({error.strerror or error})"


def _what_then(error: OSError) -> str:
    if isinstance(error, ConnectionRefusedError):
        return "start the broker (`sled broker`, or `systemctl status mosquitto`), and check the port"
    return "check the network, and firewalls on the way; `ping` the broker's machine"


def _distrust(error: ssl.SSLCertVerificationError) -> str:
    said = error.verify_message or str(error)
    meaning = next((means for words, means in _TRUST.items() if words in said.lower()), "it is not trusted")
    return f"the broker shows a certificate that is not good: {meaning} ({said})"


def _how_to_trust(error: ssl.SSLCertVerificationError, address: BrokerAddress) -> str:
    said = (error.verify_message or str(error)).lower()
    if "mismatch" in said:
        return f"make the broker's identity with --host {address.host}, or give --broker a host that is in it"
    if "expired" in said:
        return "renew the broker's certificate (`sled device create` again, with its --identity), and have it read it"
    if "not yet valid" in said:
        return "set this machine's clock: `timedatectl set-ntp true`"
    return "if this is the right broker, enrol in its fleet; if not, somebody may stand between: do not go on"


def _alert(error: ssl.SSLError) -> tuple[str, str]:
    reason = error.reason or str(error)
    if "ALERT" in reason or "CERTIFICATE" in reason:
        for words, sentence in _OUR_CERTIFICATE.items():
            if words in reason:
                fault, _, advice = sentence.partition(": ")
                return f"this machine's certificate {fault} ({reason})", advice
    if reason in {"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE"}:
        return f"whoever listens there does not speak TLS ({reason})", "check the port: TLS is usually at 8883"
    if "PROTOCOL" in reason or "VERSION" in reason:
        return f"no version of TLS in common ({reason})", "update the broker: 1.2 or newer is spoken here"
    return f"no agreement on TLS ({reason})", "see the broker's log for why"
