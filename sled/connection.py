"""How a command reaches its broker: what it was told, and what the machine's identity says."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from broker.address import Addresses, parse_addresses
from broker.tls import Tls
from schemas.topics import DEFAULT_ROOT, Topics

if TYPE_CHECKING:
    from provisioning.identity_folder import Identity, IdentityFolder
    from provisioning.role import Role

DEFAULT_BROKER: Final = "127.0.0.1:1883"


class Connection(Struct, frozen=True):
    """How to reach the broker, and as whom.

    Attributes:
        address: of the broker, or of several.
        root: of all topics.
        tls: the identity's files; None without one.
        client_id: the identity's name; empty without one, for the role's own choice.
    """

    address: Addresses
    root: str = DEFAULT_ROOT
    tls: Tls | None = None
    client_id: str = ""


def plain(broker: str | None, root: str | None) -> Connection:
    """Return a connection without an identity.

    Raises:
        ValueError: `broker` is no address.
        InvalidTopic: `root` is no topic.
    """
    return Connection(parse_addresses(broker or DEFAULT_BROKER), Topics(root or DEFAULT_ROOT).root)


def identified(
    folder: IdentityFolder,
    role: Role,
    *,
    broker: str | None = None,
    root: str | None = None,
    name: str | None = None,
    now: datetime | None = None,
) -> Connection:
    """Return a connection as whoever the folder says.

    Args:
        folder: of the identity.
        role: what the command needs it to be.
        broker: address; None for where the machine was told its broker is.
        root: of all topics; None for the one it was told.
        name: that it must have; None for any.
        now: with a time zone; None for this moment.

    Raises:
        ProvisioningError: there is no such identity, it does not hold now, it is another's or of another role, nobody
            has said where the broker is, or the way there is one without TLS.
        ValueError: the broker is no address.
        InvalidTopic: the root is no topic.
    """
    from provisioning.errors import ProvisioningError  # noqa: PLC0415 -- who has no identity need not wait for it
    from provisioning.identity_folder import Place  # noqa: PLC0415

    identity = require(folder, role, now or datetime.now(UTC))
    if name is not None and name != identity.name:
        raise ProvisioningError(
            f"{folder.path} holds the identity of {identity.name!r}, not of {name!r}, and a broker knows everybody by "
            f"the name in the certificate: leave the name out, or enrol this machine as {name!r}"
        )
    place = folder.place() or Place(identity.name)
    where = broker or place.broker
    if not where:
        raise ProvisioningError(f"{folder.path} does not say where the broker is: name it with --broker mqtts://HOST")
    addresses = parse_addresses(where)
    if not all(address.tls for address in addresses):
        raise ProvisioningError(
            f"an identity is shown over TLS only, and {where!r} is without: write mqtts://HOST, or leave out --identity"
        )
    return Connection(addresses, Topics(root or place.root).root, folder.tls(), identity.name)


def require(folder: IdentityFolder, role: Role, now: datetime) -> Identity:
    """Return the identity in a folder, which holds now and is of a role.

    Raises:
        ProvisioningError: as `identified`.
    """
    from provisioning.certificate import check  # noqa: PLC0415
    from provisioning.errors import ProvisioningError  # noqa: PLC0415

    identity = folder.require_identity()
    check(identity.certificate, identity.authority, now)
    if identity.role is not role:
        raise ProvisioningError(
            f"{folder.path} holds the identity of {identity.name!r}, whose role is {identity.role}, and this needs the "
            f"role {role}: name another folder with --identity, or have the operator register one with "
            f"`sled device create NAME{'' if role == 'device' else f' --role {role}'}`"
        )
    return identity
