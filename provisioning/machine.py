"""What a machine does about its own identity: gets it by token or by file, renews it, says when it is time to."""

from __future__ import annotations

import logging
import secrets
from typing import TYPE_CHECKING, Protocol

from provisioning import certificate as certificates
from provisioning import files
from provisioning.certificate import check, check_dates, fingerprint, issued_by
from provisioning.enrolment import Asking, accept, make_request
from provisioning.errors import ProvisioningError, Refused
from provisioning.files import NewFile
from provisioning.identity_folder import Identity, IdentityFolder, Place
from provisioning.reports import IdentityReport
from provisioning.role import Role
from provisioning.signing_request import make_signing_request
from schemas.topics import check_name

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

    from cryptography import x509

    from provisioning.keys import PrivateKey
    from provisioning.token import Ticket
    from schemas.enrolment import EnrolmentRequest

_log = logging.getLogger(__name__)


class Ask(Protocol):
    """Sends a request to the operator's side and returns the certificate that comes back."""

    def __call__(self, place: Place, identity: Identity, request: EnrolmentRequest) -> str:
        """Ask.

        Args:
            place: where the broker is.
            identity: to connect with.
            request: to send.

        Raises:
            ProvisioningError: no, or no answer.
        """
        ...


def enrol(
    folder: IdentityFolder,
    ticket: Ticket,
    ask: Ask,
    *,
    now: datetime,
    replace: bool = False,
    dry_run: bool = False,
) -> IdentityReport:
    """Get the machine's certificate with a token; a machine that has it already is left as it is.

    Args:
        folder: for the identity.
        ticket: of the token.
        ask: carries the request.
        now: with a time zone.
        replace: take the place of an identity that is there.
        dry_run: only check the token and the folder.

    Raises:
        ProvisioningError: the token, the clock, the folder, the broker or the operator says no; the sentence says
            which. Whatever identity was there is as it was.
    """
    check_dates(ticket.certificate, "the token", now)
    place = Place(ticket.device, ticket.broker, ticket.root)
    if not replace:
        present = _present(folder, ticket, now)
        if present is not None:
            return present
    if dry_run:
        return IdentityReport(ticket.device, str(folder.path), changed=True, dry_run=True)
    with folder.locked():
        key = folder.take_pending_key()
        bootstrap = Identity(ticket.certificate, ticket.key, ticket.authority)
        return _exchange(folder, place, bootstrap, key, ask, now)


def renew(
    folder: IdentityFolder, ask: Ask, *, now: datetime, broker: str = "", dry_run: bool = False
) -> IdentityReport:
    """Get a certificate for a new key with the present one.

    Args:
        folder: of the identity.
        ask: carries the request.
        now: with a time zone.
        broker: address of the broker, where it is no longer the one it was.
        dry_run: only check whether it could be asked.

    Raises:
        ProvisioningError: there is no identity, it has expired, or as `enrol`; the identity is as it was.
    """
    identity = folder.require_identity()
    if identity.role is Role.BROKER:
        raise ProvisioningError(
            f"{folder.path} holds the identity of a broker, which is nobody's client: renew it beside the authority "
            "(--ca), or by file (--csr-out, then --certificate)"
        )
    check(identity.certificate, identity.authority, now)
    known = folder.place() or Place(identity.name)
    place = Place(identity.name, broker or known.broker, known.root)
    if not place.broker:
        raise ProvisioningError(f"{folder.path} does not say where the broker is: name it with --broker")
    if dry_run:
        return IdentityReport(identity.name, str(folder.path), changed=True, dry_run=True)
    with folder.locked():
        return _exchange(folder, place, identity, folder.take_pending_key(), ask, now)


def write_signing_request(
    folder: IdentityFolder,
    out: Path,
    *,
    name: str,
    authority: x509.Certificate | None = None,
    broker: str = "",
    root: str = "",
    dry_run: bool = False,
) -> IdentityReport:
    """Write a signing request to carry to the operator by hand.

    An identity that is there stays in use until the certificate comes, and so does what it says of the broker.

    Args:
        folder: for the identity; the key stays in it.
        out: the file.
        name: the machine's.
        authority: the fleet's, where it is known already.
        broker: address of the broker; empty for the one that the folder says, if it says one.
        root: of all topics; empty for the one that the folder says, else the usual one.
        dry_run: only check.

    Raises:
        InvalidTopic: the name may not be part of a topic.
        ProvisioningError: the folder holds the identity of another, or cannot be written to.
    """
    check_name(name)
    present = folder.identity()
    if present is not None and present.name != name:
        raise ProvisioningError(f"{folder.path} holds the identity of {present.name!r}: name another folder")
    if authority is not None:
        _check_trust(folder, authority)
    if dry_run:
        return IdentityReport(name, str(folder.path), changed=True, dry_run=True)
    with folder.locked():
        key = folder.take_pending_key()
        known = _known_place(folder, name)
        folder.expect(Place(name, broker or known.broker, root or known.root), authority)
        files.write([NewFile(out, make_signing_request(name, key).encode())])
    return IdentityReport(name, str(folder.path), pending=str(out), changed=True)


def write_renewal_request(
    folder: IdentityFolder, out: Path, *, broker: str = "", dry_run: bool = False
) -> IdentityReport:
    """Write a signing request for a new key of a machine that has an identity; arguments and errors as above."""
    identity = folder.require_identity()
    known = folder.place() or Place(identity.name)
    return write_signing_request(
        folder, out, name=identity.name, broker=broker or known.broker, root=known.root, dry_run=dry_run
    )


def install_certificate(
    folder: IdentityFolder,
    file: Path,
    *,
    now: datetime,
    trusted: str = "",
    dry_run: bool = False,
) -> IdentityReport:
    """Install a certificate that came back by hand; the same one again changes nothing.

    Where neither the folder nor the operator says which authority to trust, it is the one in the file, with a warning.

    Args:
        folder: that holds the key.
        file: the certificate, the authority's behind it.
        now: with a time zone.
        trusted: SHA-256 of the authority's certificate, where the operator has said it.
        dry_run: only check.

    Raises:
        ProvisioningError: no request was made here, or the certificate is not what was asked for.
    """
    text = files.read(file, "the certificate")
    if text is None:
        raise ProvisioningError(f"there is no certificate {file}: have the operator make it with `sled device sign`")
    chain = certificates.read_chain(text, f"{file}")
    present = folder.identity()
    if present is not None and present.certificate == chain[0]:
        return _report(folder, present, now)
    key, place = folder.pending_key(), folder.place()
    if key is None or place is None:
        raise ProvisioningError(
            f"{folder.path} waits for no certificate: make a signing request with `sled enroll --csr-out FILE` first"
        )
    authority = _authority(folder, chain, trusted, file)
    certificate = accept(certificates.to_pem(chain[0]), place.name, key.public_key(), authority, now)
    identity = Identity(certificate, key, authority)
    if dry_run:
        return IdentityReport(place.name, str(folder.path), changed=True, dry_run=True)
    with folder.locked():
        folder.install(identity, place)
    return _report(folder, identity, now, changed=True)


def look(folder: IdentityFolder, *, now: datetime) -> IdentityReport:
    """Return who this machine is, and whether it is time to renew its certificate: when a third of its time is left.

    Raises:
        ProvisioningError: it has no identity, a damaged one, or one that is not valid yet.
    """
    identity = folder.require_identity()
    check_dates(identity.authority, "the certificate of the fleet's authority", now)
    if now < identity.certificate.not_valid_before_utc:
        check_dates(identity.certificate, f"the certificate of {identity.name!r}", now)
    return _report(folder, identity, now)


def is_due(certificate: x509.Certificate, now: datetime) -> bool:
    """Whether a third or less of a certificate's time is left."""
    begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return now >= ends - (ends - begins) / 3


def _exchange(
    folder: IdentityFolder, place: Place, asking: Identity, key: PrivateKey, ask: Ask, now: datetime
) -> IdentityReport:
    request = make_request(place.name, key, Asking(asking.certificate, asking.key), secrets.token_hex(8))
    pem = ask(place, asking, request)
    certificate = accept(pem, place.name, key.public_key(), asking.authority, now)
    identity = Identity(certificate, key, asking.authority)
    folder.install(identity, place)
    return _report(folder, identity, now, changed=True)


def _present(folder: IdentityFolder, ticket: Ticket, now: datetime) -> IdentityReport | None:
    """Return what is there if it makes the token needless; None if there is nothing."""
    present = folder.identity()
    if present is None:
        return None
    if present.name == ticket.device and present.authority == ticket.authority:
        ends = present.certificate.not_valid_after_utc
        return _report(folder, present, now) if now <= ends else None
    raise ProvisioningError(
        f"{folder.path} holds the identity of {present.name!r} in the fleet whose authority has SHA-256 "
        f"{fingerprint(present.authority)}, and the token is for another: name another folder with --identity, or "
        "give --replace"
    )


def _authority(folder: IdentityFolder, chain: list[x509.Certificate], trusted: str, file: Path) -> x509.Certificate:
    """Return the authority to trust: the one known here, else the one in the file."""
    known = folder.authority()
    if known is None:
        found = [certificate for certificate in chain[1:] if issued_by(certificate, certificate)]
        if len(found) != 1:
            raise ProvisioningError(
                f"{file} does not hold the authority's certificate behind the machine's: have it made by "
                "`sled device sign`"
            )
        known = found[0]
        if not trusted:
            _log.warning(
                "%s brings the authority that this machine will trust, and nothing here vouches for it: SHA-256 %s. "
                "Compare that with what `sled ca init` prints at the operator's before you go on, or give it with "
                "--fingerprint: whoever made the file could be in the operator's place",
                file,
                fingerprint(known),
            )
    if trusted and _plain(trusted) != _plain(fingerprint(known)):
        raise Refused(
            "wrong_authority",
            f"the authority has SHA-256 {fingerprint(known)}, and not {trusted}: it is not the one the operator named",
        )
    return known


def _known_place(folder: IdentityFolder, name: str) -> Place:
    """Return where a machine was told it belongs; what cannot be read, or was said of another, is not known."""
    try:
        known = folder.place()
    except ProvisioningError:  # enrolling again is the way out of that
        known = None
    return known if known is not None and known.name == name else Place(name)


def _plain(digest: str) -> str:
    return digest.replace(":", "").strip().lower()


def _check_trust(folder: IdentityFolder, authority: x509.Certificate) -> None:
    known = folder.authority()
    if known is not None and known != authority:
        raise Refused(
            "wrong_authority",
            f"{folder.path} trusts the authority with SHA-256 {fingerprint(known)}, and the token is of another: name "
            "another folder with --identity",
        )


def _report(folder: IdentityFolder, identity: Identity, now: datetime, *, changed: bool = False) -> IdentityReport:
    certificate = identity.certificate
    return IdentityReport(
        identity.name,
        str(folder.path),
        str(identity.role),
        fingerprint(identity.authority),
        certificate.not_valid_before_utc,
        certificate.not_valid_after_utc,
        is_due(certificate, now),
        changed=changed,
    )
