"""The authority's book: which machines there are, what was issued to them, and what is void.

Every function returns a new book and leaves the old one as it was; `provisioning.authority_folder` makes it last.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

import msgspec
from msgspec import Struct

from provisioning.certificate import serial, shown, to_pem
from provisioning.errors import ProvisioningError, Refused
from provisioning.keys import key_digest
from provisioning.role import Role
from schemas.topics import check_name

if TYPE_CHECKING:
    from cryptography import x509

    from provisioning.keys import PublicKey

VERSION: Final = 1

MOST_CERTIFICATES: Final = 8
"""That one machine may hold at a time: more than rotation ever needs, and a bound for one gone wild."""

KEPT: Final = timedelta(days=7)
"""Expired certificates, tokens and revocations are forgotten after so long."""


class Issued(Struct, frozen=True):
    """A certificate that was issued.

    Attributes:
        serial: hexadecimal.
        key: SHA-256 of the public key, hexadecimal.
        begins: from when it is valid.
        ends: until when.
        pem: the certificate itself: the same key asked for again gets the same answer.
    """

    serial: str
    key: str
    begins: datetime
    ends: datetime
    pem: str


class Device(Struct, frozen=True):
    """A machine, of whatever role.

    Attributes:
        created: when it was registered.
        hosts: names and addresses of a broker's machine.
        revoked: since when all it has is void.
        certificates: issued to it, the oldest first.
    """

    role: Role
    created: datetime
    hosts: tuple[str, ...] = ()
    revoked: datetime | None = None
    certificates: tuple[Issued, ...] = ()


class Token(Struct, frozen=True):
    """An enrolment token; of its secret only a digest is kept.

    Attributes:
        device: whose key it may bring.
        expires: when it ends, used or not.
        key: SHA-256 of the bootstrap identity's public key, hexadecimal.
        serial: of the bootstrap certificate, hexadecimal.
        used: when a key was brought.
        used_by: SHA-256 of that key.
    """

    device: str
    created: datetime
    expires: datetime
    key: str
    serial: str
    used: datetime | None = None
    used_by: str | None = None


class Revocation(Struct, frozen=True):
    """A certificate that is void before its time.

    Attributes:
        serial: hexadecimal.
        name: in the certificate.
        since: when it was revoked.
        ends: when it would have expired.
    """

    serial: str
    name: str
    since: datetime
    ends: datetime


class Registry(Struct, frozen=True):
    """The book.

    Attributes:
        devices: by name.
        tokens: by the name of their bootstrap identity.
        revocations: the oldest first.
        list_number: of the newest revocation list.
    """

    version: int = VERSION
    devices: dict[str, Device] = {}
    tokens: dict[str, Token] = {}
    revocations: tuple[Revocation, ...] = ()
    list_number: int = 0


def encode(registry: Registry) -> bytes:
    """Return the book as JSON that a person can read."""
    return msgspec.json.format(msgspec.json.encode(registry), indent=2) + b"\n"


def decode(text: bytes) -> Registry:
    """Return the book in `text`.

    Raises:
        ProvisioningError: it is damaged, or of a newer version.
    """
    try:
        registry = msgspec.json.decode(text, type=Registry)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ProvisioningError(f"the registry is damaged ({error}): restore it from a backup") from None
    if registry.version != VERSION:
        raise ProvisioningError(
            f"the registry is of version {registry.version}, and this program reads version {VERSION}: update it"
        )
    return registry


def register(registry: Registry, name: str, role: Role, hosts: tuple[str, ...], now: datetime) -> Registry:
    """Add a machine; the book itself if it is there in the same way.

    Raises:
        InvalidTopic: the name may not be part of a topic.
        ProvisioningError: it is there in another way, or revoked.
    """
    check_name(name)
    known = registry.devices.get(name)
    if known is None:
        return _with_device(registry, name, Device(role, now, hosts))
    if known.revoked:
        raise ProvisioningError(
            f"{name!r} was revoked on {shown(known.revoked)}: to use the name for another machine, "
            f"`sled device delete {name}` first"
        )
    if (known.role, known.hosts) != (role, hosts):
        raise ProvisioningError(
            f"{name!r} is registered already, as {_described(known)}: choose another name, or "
            f"`sled device delete {name}` first"
        )
    return registry


def find(registry: Registry, name: str) -> Device:
    """Return a machine.

    Raises:
        ProvisioningError: it is not registered.
    """
    device = registry.devices.get(name)
    if device is None:
        raise ProvisioningError(f"no device {name!r} is registered: `sled device list` shows those that are")
    return device


def require(registry: Registry, name: str) -> Device:
    """Return a machine that may hold certificates.

    Raises:
        Refused: it is not registered, or was revoked.
    """
    device = registry.devices.get(name)
    if device is None:
        raise Refused("unknown_device", f"no device {name!r} is registered: `sled device create {name}` first")
    if device.revoked:
        raise Refused("revoked", f"{name!r} was revoked on {shown(device.revoked)}: ask the operator")
    return device


def find_issued(device: Device, key: str, now: datetime) -> Issued | None:
    """Return the certificate that a machine holds for a key (its digest), if it holds one."""
    return next((issued for issued in device.certificates if issued.key == key and issued.ends > now), None)


def check_room(name: str, device: Device, now: datetime) -> None:
    """See that a machine may get one more certificate.

    Raises:
        Refused: it holds too many.
    """
    held = sum(issued.ends > now for issued in device.certificates)
    if held >= MOST_CERTIFICATES:
        raise Refused(
            "too_many",
            f"{name!r} holds {held} certificates that have not expired: something renews too often. Revoke and delete "
            "it, and enrol it again",
        )


def add_certificate(registry: Registry, name: str, certificate: x509.Certificate, key: PublicKey) -> Registry:
    """Note a certificate as issued to a registered machine."""
    device = registry.devices[name]
    issued = Issued(
        serial(certificate),
        key_digest(key),
        certificate.not_valid_before_utc,
        certificate.not_valid_after_utc,
        to_pem(certificate),
    )
    changed = msgspec.structs.replace(device, certificates=(*device.certificates, issued))
    return _with_device(registry, name, changed)


def add_token(registry: Registry, identity: str, token: Token) -> Registry:
    """Note a token under the name of its bootstrap identity."""
    return msgspec.structs.replace(registry, tokens={**registry.tokens, identity: token})


def use_token(registry: Registry, identity: str, key: str, now: datetime) -> Registry:
    """Note that a token has brought a key; the same key may come again, when the answer was lost.

    Raises:
        Refused: the token has brought another key.
    """
    token = registry.tokens[identity]
    if token.used_by == key:
        return registry
    if token.used is not None:
        raise Refused(
            "token_used",
            f"this token was used on {shown(token.used)}, and is good for once: make another with "
            f"`sled token create {token.device}`; if it was not you who used it, `sled device revoke {token.device}`",
        )
    return add_token(registry, identity, msgspec.structs.replace(token, used=now, used_by=key))


def revoke(registry: Registry, name: str, now: datetime) -> Registry:
    """Make void all that a machine holds: its certificates and its open tokens. The book itself if that is so already.

    Raises:
        ProvisioningError: it is not registered.
    """
    device = find(registry, name)
    if device.revoked:
        return registry
    found = [Revocation(issued.serial, name, now, issued.ends) for issued in device.certificates]
    found += [
        Revocation(token.serial, identity, now, token.expires)
        for identity, token in registry.tokens.items()
        if token.device == name
    ]
    marked = _with_device(registry, name, msgspec.structs.replace(device, revoked=now))
    return msgspec.structs.replace(
        marked,
        revocations=(*registry.revocations, *(entry for entry in found if entry.ends > now)),
        tokens={identity: token for identity, token in registry.tokens.items() if token.device != name},
    )


def delete(registry: Registry, name: str, now: datetime) -> Registry:
    """Forget a machine, whose certificates are made void first; the book itself if it is not there."""
    if name not in registry.devices:
        return registry
    revoked = revoke(registry, name, now)
    return msgspec.structs.replace(
        revoked, devices={other: device for other, device in revoked.devices.items() if other != name}
    )


def is_revoked(registry: Registry, serial_number: str) -> bool:
    """Whether a certificate is void before its time."""
    return any(entry.serial == serial_number for entry in registry.revocations)


def next_list(registry: Registry) -> Registry:
    """Count the revocation list on."""
    return msgspec.structs.replace(registry, list_number=registry.list_number + 1)


def pruned(registry: Registry, now: datetime) -> Registry:
    """Leave out what expired long ago; the newest certificate of a machine stays, to show what was."""
    gone = now - KEPT
    devices = {name: _pruned(device, gone) for name, device in registry.devices.items()}
    tokens = {identity: token for identity, token in registry.tokens.items() if token.expires > gone}
    revocations = tuple(entry for entry in registry.revocations if entry.ends > gone)
    if (devices, tokens, revocations) == (registry.devices, registry.tokens, registry.revocations):
        return registry
    return msgspec.structs.replace(registry, devices=devices, tokens=tokens, revocations=revocations)


def identities(registry: Registry, now: datetime) -> list[tuple[str, Role]]:
    """Return who may connect, each with its role: machines that are not revoked, and tokens that are good.

    A token that was used is among them until it expires: the answer may have been lost.
    """
    machines = [(name, device.role) for name, device in registry.devices.items() if not device.revoked]
    tokens = [(identity, Role.ENROLMENT) for identity, token in registry.tokens.items() if token.expires > now]
    return sorted(machines) + sorted(tokens)


def _pruned(device: Device, gone: datetime) -> Device:
    newest = device.certificates[-1:]
    kept = (*(issued for issued in device.certificates[:-1] if issued.ends > gone), *newest)
    return device if kept == device.certificates else msgspec.structs.replace(device, certificates=kept)


def _with_device(registry: Registry, name: str, device: Device) -> Registry:
    return msgspec.structs.replace(registry, devices={**registry.devices, name: device})


def _described(device: Device) -> str:
    return f"{device.role} of {', '.join(device.hosts)}" if device.hosts else str(device.role)
