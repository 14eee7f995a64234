"""Whether this machine's identity is good: there, its own key's, the right role's, valid, and not about to end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from provisioning.certificate import UNREADABLE, check_dates, fingerprint, serial, shown
from provisioning.errors import ProvisioningError, Refused
from provisioning.machine import is_due
from sled.checks.check import Check, failed, ok, skipped, warning

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

    from provisioning.identity_folder import Identity, IdentityFolder

IDENTITY: Final = "identity"
ROLE: Final = "role"
DATES: Final = "certificate dates"
LIST: Final = "revocation list"

_MOST_BYTES: Final = 16 << 20
"""Of a revocation list: more than a hundred thousand certificates."""

_ROLES: Final = {"agent": "device"}
"""The role of a certificate, where it is not called as the command calls it."""


def check_identity(folder: IdentityFolder, *, asked_for: bool) -> tuple[Identity | None, Check]:
    """Read the identity, mode of its key included.

    Args:
        folder: where it is, or would be.
        asked_for: it was named on the command line, so that it must be there.
    """
    try:
        identity = folder.identity()
    except ProvisioningError as error:
        return None, failed(IDENTITY, f"{folder.path} cannot be used", str(error))
    if identity is not None:
        return identity, ok(IDENTITY, f"{identity.name}, in {folder.path}; its key is closed to others")
    why = f"{folder.path} holds none"
    if asked_for:
        return None, failed(IDENTITY, why, "get one with `sled enroll --token …`, or name its folder with --identity")
    return None, skipped(IDENTITY, f"{why}: fine on loopback; beyond it, `sled enroll --token …`")


def check_role(identity: Identity | None, role: str) -> Check:
    """See that the certificate is for the role that is looked at."""
    if identity is None:
        return skipped(ROLE, "there is no identity")
    wanted = _ROLES.get(role, role)
    try:
        found = identity.role
    except Refused as refused:
        return failed(ROLE, str(refused), "enrol this machine again")
    if found == wanted:
        return ok(ROLE, f"the certificate is of a {found}")
    return failed(
        ROLE,
        f"the certificate is of a {found}, and {role} needs that of a {wanted}: the broker will not let it work",
        f"name another folder with --identity, or make the identity anew: `sled device create … --role {wanted}`",
    )


def check_certificate(identity: Identity | None, now: datetime) -> Check:
    """See that the certificate and its authority hold now, and for how long."""
    if identity is None:
        return skipped(DATES, "there is no identity")
    certificate = identity.certificate
    span = f"valid from {shown(certificate.not_valid_before_utc)} to {shown(certificate.not_valid_after_utc)}"
    try:
        check_dates(identity.authority, "the certificate of the fleet's authority", now)
        check_dates(certificate, f"the certificate of {identity.name!r}", now)
    except Refused as refused:
        return failed(DATES, span, str(refused))
    days = (certificate.not_valid_after_utc - now).days
    if is_due(certificate, now):
        return warning(
            DATES,
            f"{span}: {days} days are left, less than a third",
            "renew it with `sled device rotate`, and see that the timer that does so runs",
        )
    return ok(DATES, f"{span}: {days} days are left")


def check_list(identity: Identity | None, file: Path | None, now: datetime) -> Check:
    """See that a revocation list at hand is the authority's, in date, and does not name this machine."""
    if file is None:
        return skipped(LIST, "the broker has it; name a copy with --crl to look at it here")
    if identity is None:
        return skipped(LIST, "there is no identity to look up in it")
    from cryptography import x509  # noqa: PLC0415 -- only where a list was named

    try:
        with file.open("rb") as opened:
            revoked = x509.load_pem_x509_crl(opened.read(_MOST_BYTES))
        genuine = revoked.is_signature_valid(identity.authority.public_key())  # type: ignore[arg-type]
    except (OSError, *UNREADABLE) as error:
        return failed(LIST, f"{file} cannot be read ({error})", "copy crl.pem from the authority's folder again")
    if not genuine:
        return failed(
            LIST,
            f"{file} is not signed by the authority with SHA-256 {fingerprint(identity.authority)}",
            "copy crl.pem from the authority's own folder",
        )
    due = revoked.next_update_utc
    if due is not None and due < now:
        return failed(
            LIST,
            f"{file} should have been written again by {shown(due)}: a broker that reads it lets nobody in",
            "run `sled ca crl` at the operator's, and copy the list to the broker",
        )
    if revoked.get_revoked_certificate_by_serial_number(identity.certificate.serial_number) is not None:
        return failed(
            LIST,
            f"{file} names this machine's certificate ({serial(identity.certificate)})",
            "if that is a mistake, `sled device delete` and `create` it again at the operator's, and enrol anew",
        )
    return ok(LIST, f"{file} does not name this machine{f', and is good until {shown(due)}' if due else ''}")
