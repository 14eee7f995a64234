"""What an operator does with the authority: makes it, registers machines, signs, hands out tokens, revokes."""

from __future__ import annotations

import secrets
from contextlib import nullcontext
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

from cryptography import x509
from msgspec.structs import replace

from broker.address import parse_addresses
from provisioning import files, keys
from provisioning import registry as book
from provisioning.authority import AUTHORITY_LIFETIME, LIFETIME, Authority, Subject, check_hosts, issue
from provisioning.certificate import fingerprint, read_certificate, serial, to_pem
from provisioning.enrolment import Terms, accept, sign_for
from provisioning.errors import ProvisioningError
from provisioning.files import NewFile
from provisioning.identity_folder import Identity, IdentityFolder, Place
from provisioning.registry import Device, Registry, Token
from provisioning.reports import (
    AuthorityReport,
    CertificateReport,
    DeviceReport,
    DevicesReport,
    ListReport,
    SignedReport,
    TokenReport,
)
from provisioning.role import Role
from provisioning.signing_request import SigningRequest, read_signing_request
from provisioning.token import Ticket, encode
from schemas.enrolment import bootstrap_name
from schemas.topics import Topics, check_name

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from provisioning.authority_folder import AuthorityFolder

LONGEST_TOKEN: Final = timedelta(days=7)
"""A token is a secret that lies about; it should not do so for long."""


def make_authority(
    folder: AuthorityFolder,
    name: str,
    *,
    now: datetime,
    passphrase: bytes | None = None,
    lifetime: timedelta = AUTHORITY_LIFETIME,
    dry_run: bool = False,
) -> AuthorityReport:
    """Make the authority, unless it is there.

    Raises:
        ProvisioningError: the folder holds half of one, or cannot be written to.
    """
    changed = folder.create(name, now=now, passphrase=passphrase, lifetime=lifetime, dry_run=dry_run)
    if changed and dry_run:
        return AuthorityReport(str(folder.path), "", None, changed=True, dry_run=True)
    certificate = folder.certificate()
    return AuthorityReport(
        str(folder.path), fingerprint(certificate), certificate.not_valid_after_utc, changed=changed, dry_run=dry_run
    )


def renew_list(folder: AuthorityFolder, authority: Authority, *, now: datetime, dry_run: bool = False) -> ListReport:
    """Write the revocation list again where half of its time is over, or it is not what the registry says."""
    number, due = folder.registry().list_number, folder.list_is_due(authority, now)
    folder.change(lambda registry: (registry, None), now=now, authority=authority, dry_run=dry_run)
    registry = folder.registry()
    return ListReport(
        str(folder.list_file),
        len(registry.revocations),
        registry.list_number,
        changed=due if dry_run else registry.list_number != number,
        dry_run=dry_run,
    )


def register(
    folder: AuthorityFolder,
    name: str,
    role: Role,
    hosts: tuple[str, ...] = (),
    *,
    now: datetime,
    dry_run: bool = False,
) -> DeviceReport:
    """Register a machine, unless it is registered in the same way.

    Raises:
        InvalidTopic: the name may not be part of a topic.
        ProvisioningError: it is registered in another way, was revoked, or a broker without a host.
    """
    _check_hosts(name, role, hosts)

    def alter(registry: Registry) -> tuple[Registry, DeviceReport]:
        after = book.register(registry, name, role, hosts, now)
        return after, _report(after, name, now, changed=after is not registry, dry_run=dry_run)

    return folder.change(alter, now=now, dry_run=dry_run)


def give_identity(
    folder: AuthorityFolder,
    authority: Authority,
    machine: Subject,
    place: IdentityFolder,
    *,
    now: datetime,
    lifetime: timedelta = LIFETIME,
    broker: str = "",
    root: str = "sled/v1",
    dry_run: bool = False,
) -> DeviceReport:
    """Register a machine and make its identity right here, for one that runs beside the authority.

    A folder that holds one that is good and not soon to be renewed is left as it is.

    Raises:
        ProvisioningError: the folder holds the identity of another, or cannot be written to; or as `register`. Nothing
            was changed then.
    """
    name, role, hosts = machine
    _check_hosts(name, role, hosts)
    with nullcontext() if dry_run else place.locked():
        present = place.identity()
        if present is not None and present.name != name:
            raise ProvisioningError(f"{place.path} holds the identity of {present.name!r}: name another folder")
        if present is not None and present.certificate.not_valid_after_utc - now > lifetime / 3:
            return register(folder, name, role, hosts, now=now, dry_run=dry_run)
        if dry_run:
            return replace(register(folder, name, role, hosts, now=now, dry_run=True), changed=True)
        _certify(
            folder,
            authority,
            place,
            Place(name, broker, root),
            Terms(x509.random_serial_number(), now, lifetime),
            lambda registry: book.register(registry, name, role, hosts, now),
        )
    return _report(folder.registry(), name, now, changed=True)


def renew_identity(
    folder: AuthorityFolder,
    authority: Authority,
    place: IdentityFolder,
    *,
    now: datetime,
    lifetime: timedelta = LIFETIME,
    dry_run: bool = False,
) -> DeviceReport:
    """Make a new key and certificate right here for an identity of this fleet, be it expired.

    Raises:
        ProvisioningError: the folder holds no identity, or one of another authority, or cannot be written to; the
            machine is not registered, or was revoked. The identity is as it was then.
    """
    present = place.require_identity()
    if present.authority != authority.certificate:
        raise ProvisioningError(
            f"{place.path} holds an identity of the authority with SHA-256 {fingerprint(present.authority)}, and "
            f"{folder.path} is that with {fingerprint(authority.certificate)}: name the folder of its own with --ca"
        )
    if dry_run:
        registry = folder.registry()
        book.require(registry, present.name)
        return _report(registry, present.name, now, changed=True, dry_run=True)
    with place.locked():
        known = place.place() or Place(present.name)
        _certify(folder, authority, place, known, Terms(x509.random_serial_number(), now, lifetime))
    return _report(folder.registry(), present.name, now, changed=True)


def list_devices(folder: AuthorityFolder, *, now: datetime) -> DevicesReport:
    """Return all machines."""
    registry = folder.registry()
    return DevicesReport(tuple(_report(registry, name, now) for name in sorted(registry.devices)))


def show_device(folder: AuthorityFolder, name: str, *, now: datetime) -> DeviceReport:
    """Return one machine.

    Raises:
        ProvisioningError: it is not registered.
    """
    registry = folder.registry()
    book.find(registry, check_name(name))
    return _report(registry, name, now)


def revoke(
    folder: AuthorityFolder, authority: Authority, name: str, *, now: datetime, dry_run: bool = False
) -> DeviceReport:
    """Make void all that a machine holds, and write the revocation list.

    Raises:
        ProvisioningError: it is not registered.
    """
    check_name(name)

    def alter(registry: Registry) -> tuple[Registry, DeviceReport]:
        after = book.revoke(registry, name, now)
        return after, _report(after, name, now, changed=after is not registry, dry_run=dry_run)

    return folder.change(alter, now=now, authority=authority, dry_run=dry_run)


def delete(
    folder: AuthorityFolder, authority: Authority, name: str, *, now: datetime, dry_run: bool = False
) -> DeviceReport:
    """Forget a machine; its certificates are made void first, and stay so."""
    check_name(name)

    def alter(registry: Registry) -> tuple[Registry, DeviceReport]:
        after = book.delete(registry, name, now)
        known = registry.devices.get(name)
        role = str(known.role) if known else ""
        return after, DeviceReport(name, role, "absent", changed=known is not None, dry_run=dry_run)

    return folder.change(alter, now=now, authority=authority, dry_run=dry_run)


def sign(
    folder: AuthorityFolder,
    authority: Authority,
    request: Path,
    out: Path,
    *,
    now: datetime,
    lifetime: timedelta = LIFETIME,
    dry_run: bool = False,
) -> SignedReport:
    """Sign a request that came as a file, for which the operator vouches.

    Args:
        folder: of the authority.
        authority: with its key.
        request: signing request in PEM.
        out: where the certificate goes, the authority's behind it.
        now: with a time zone.
        lifetime: of the certificate.
        dry_run: only say what would be.

    Raises:
        Refused: the request is malformed, of a wrong key, or of a machine that is not registered or was revoked.
        ProvisioningError: a file cannot be read or written.
    """
    text = files.read(request, "the signing request")
    if text is None:
        raise ProvisioningError(f"there is no signing request {request}: make it on the machine with --csr-out")
    wanted = read_signing_request(text)
    terms = Terms(x509.random_serial_number(), now, lifetime)
    if dry_run:
        before = folder.registry()
        after, _ = sign_for(before, authority, wanted, terms)
        return SignedReport(wanted.name, str(out), None, changed=after is not before, dry_run=True)

    def alter(registry: Registry) -> tuple[Registry, tuple[str, bool]]:
        after, pem = sign_for(registry, authority, wanted, terms)
        return after, (pem, after is not registry)

    pem, changed = folder.change(alter, now=now, authority=authority)
    files.write([NewFile(out, (pem + to_pem(authority.certificate)).encode())])
    ends = read_certificate(pem, "the new certificate").not_valid_after_utc
    return SignedReport(wanted.name, str(out), ends, changed=changed)


def make_token(
    folder: AuthorityFolder,
    authority: Authority,
    device: str,
    *,
    broker: str,
    root: str,
    ttl: timedelta,
    now: datetime,
    dry_run: bool = False,
) -> TokenReport:
    """Make a token with which a registered machine enrols once.

    Args:
        folder: of the authority.
        authority: with its key.
        device: the machine's name.
        broker: address at which the machine reaches the broker, with TLS.
        root: of all topics.
        ttl: how long it is good, at most LONGEST_TOKEN.
        now: with a time zone.
        dry_run: only say what would be.

    Raises:
        Refused: the machine is not registered, or was revoked.
        ProvisioningError: the time is too long, or the broker is one without TLS.
        ValueError: the broker is no address.
    """
    if not timedelta(0) < ttl <= LONGEST_TOKEN:
        raise ProvisioningError(f"a token is good for at most {LONGEST_TOKEN.days} days, and for longer than nothing")
    if not all(address.tls for address in parse_addresses(broker)):
        raise ProvisioningError(
            "a machine enrols over TLS only: give the broker as mqtts://HOST, the name being one that its certificate "
            "proves"
        )
    Topics(root)
    identity = bootstrap_name(secrets.token_bytes(8))
    key = keys.generate()
    certificate = issue(
        authority,
        Subject(identity, Role.ENROLMENT),
        key.public_key(),
        serial=x509.random_serial_number(),
        now=now,
        lifetime=ttl,
    )
    expires = certificate.not_valid_after_utc

    def alter(registry: Registry) -> tuple[Registry, None]:
        book.require(registry, check_name(device))
        token = Token(device, now, expires, keys.key_digest(key.public_key()), serial(certificate))
        return book.add_token(registry, identity, token), None

    folder.change(alter, now=now, authority=authority, dry_run=dry_run)
    if dry_run:
        return TokenReport(device, "", identity, expires, dry_run=True)
    text = encode(Ticket(device, broker, root, authority.certificate, certificate, key))
    return TokenReport(device, text, identity, expires)


def _check_hosts(name: str, role: Role, hosts: tuple[str, ...]) -> None:
    check_hosts(hosts)
    if (role is Role.BROKER) != bool(hosts):
        raise ProvisioningError(
            f"{name!r} is of role {role}: a broker has at least one host (--host), and nobody else has"
        )


def _certify(
    folder: AuthorityFolder,
    authority: Authority,
    place: IdentityFolder,
    known: Place,
    terms: Terms,
    alter: Callable[[Registry], Registry] = lambda registry: registry,
) -> None:
    """Make a key in a folder that is locked, certify it in the altered book, and install both."""
    key = place.take_pending_key()
    wanted = SigningRequest(known.name, key.public_key())
    pem = folder.change(
        lambda registry: sign_for(alter(registry), authority, wanted, terms), now=terms.now, authority=authority
    )
    certificate = accept(pem, known.name, wanted.key, authority.certificate, terms.now)
    place.install(Identity(certificate, key, authority.certificate), known)


def _report(
    registry: Registry, name: str, now: datetime, *, changed: bool = False, dry_run: bool = False
) -> DeviceReport:
    device = registry.devices[name]
    return DeviceReport(
        name,
        str(device.role),
        _state(device, now),
        device.hosts,
        device.created,
        tuple(CertificateReport(issued.serial, issued.begins, issued.ends) for issued in device.certificates),
        sum(token.device == name and not token.used and token.expires > now for token in registry.tokens.values()),
        changed,
        dry_run,
    )


def _state(device: Device, now: datetime) -> str:
    if device.revoked:
        return "revoked"
    if not device.certificates:
        return "registered"
    return "enrolled" if any(issued.ends > now for issued in device.certificates) else "expired"
