"""An authority, machines and other people's certificates, at a time that the test chooses."""

from __future__ import annotations

import base64
import resource
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from provisioning import keys
from provisioning import registry as book
from provisioning.authority import Authority, Subject, found, issue
from provisioning.certificate import serial
from provisioning.enrolment import Asking, Terms, decide, make_request, read_answer
from provisioning.registry import Registry, Token
from provisioning.role import Role
from schemas.enrolment import bootstrap_name, encode_enrolment

if TYPE_CHECKING:
    from collections.abc import Iterator

    from provisioning.enrolment import Decision
    from provisioning.identity_folder import Identity, Place
    from schemas.enrolment import EnrolmentRequest

NOW = datetime(2027, 3, 1, 12, 0, tzinfo=UTC)
DAY = timedelta(days=1)
MINUTE = timedelta(minutes=1)

NAMES = {
    "plus": "pi+",
    "hash": "pi#",
    "slash": "pi/7",
    "dots": "..",
    "nul": "pi\0",
    "long": "p" * 300,
    "cyrillic": "р\u0456-7",  # noqa: RUF001 -- the look-alike is what is tested
    "upper": "Pi",
    "empty": "",
    "space": "pi 7",
    "newline": "pi\n",
}
"""Names that no machine may have."""


def make_authority(name: str = "fleet", now: datetime = NOW) -> Authority:
    """An authority of its own key."""
    return found(keys.generate(), name, serial=x509.random_serial_number(), now=now, lifetime=timedelta(days=3650))


def machine(
    authority: Authority,
    name: str = "pi",
    role: Role = Role.DEVICE,
    *,
    now: datetime = NOW,
    lifetime: timedelta = 90 * DAY,
    hosts: tuple[str, ...] = (),
) -> Asking:
    """A machine's identity, straight from the authority."""
    key = keys.generate()
    certificate = issue(
        authority,
        Subject(name, role, hosts),
        key.public_key(),
        serial=x509.random_serial_number(),
        now=now,
        lifetime=lifetime,
    )
    return Asking(certificate, key)


def registered(*names: str, now: datetime = NOW) -> Registry:
    """A book with some devices."""
    registry = Registry()
    for name in names:
        registry = book.register(registry, name, Role.DEVICE, (), now)
    return registry


def noted(registry: Registry, name: str, asking: Asking) -> Registry:
    """The book with an identity as issued."""
    return book.add_certificate(registry, name, asking.certificate, asking.key.public_key())


def with_token(
    registry: Registry, authority: Authority, device: str, *, ttl: timedelta = 15 * MINUTE, now: datetime = NOW
) -> tuple[Registry, str, Asking]:
    """The book with a token, the name of its bootstrap identity, and that identity."""
    identity = bootstrap_name(bytes(range(8)))
    asking = machine(authority, identity, Role.ENROLMENT, now=now, lifetime=ttl)
    token = Token(device, now, now + ttl, keys.key_digest(asking.key.public_key()), serial(asking.certificate))
    return book.add_token(registry, identity, token), identity, asking


def terms(now: datetime = NOW) -> Terms:
    """The usual terms."""
    return Terms(x509.random_serial_number(), now)


def of_no_version(crl: bytes) -> bytes:
    """A revocation list that says of itself that it has a version that there is not."""
    der = x509.load_pem_x509_crl(crl).public_bytes(Encoding.DER).replace(b"\x02\x01\x01", b"\x02\x01\x05", 1)
    return b"-----BEGIN X509 CRL-----\n" + base64.encodebytes(der) + b"-----END X509 CRL-----\n"


class Operator:
    """The operator's side in this process: the same decisions, no broker."""

    def __init__(self, authority: Authority, registry: Registry, now: datetime = NOW) -> None:
        self.authority, self.registry, self.now = authority, registry, now
        self.asked = 0

    def answer(self, identity: str, payload: bytes) -> Decision:
        """Decide, and remember it."""
        decision = decide(self.registry, self.authority, identity, payload, terms(self.now))
        self.registry = decision.registry
        return decision

    def __call__(self, place: Place, identity: Identity, request: EnrolmentRequest) -> str:
        """Answer as `provisioning.machine.Ask`."""
        self.asked += 1
        decision = self.answer(identity.name, encode_enrolment(request))
        certificate = read_answer(encode_enrolment(decision.answer), request.id)
        assert certificate is not None
        return certificate


def request_of(name: str, asking: Asking, key: keys.PrivateKey | None = None, number: str = "q1") -> bytes:
    """A request's payload."""
    return encode_enrolment(make_request(name, key or keys.generate(), asking, number))


@contextmanager
def full_disk(after: int) -> Iterator[None]:
    """No file can become longer than so many bytes: the kernel refuses the rest of a write."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (after, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
