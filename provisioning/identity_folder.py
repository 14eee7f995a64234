"""A machine's identity on disk: its key and certificate, and whom it trusts, in one folder.

identity.pem      0600   key and certificate in one file, so that both change at once
ca.pem            0644   the fleet's authority
enrolment.json    0644   the machine's name, and where the broker is
pending.pem       0600   a new key that has no certificate yet
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import msgspec
from msgspec import Struct

from broker.tls import Tls
from provisioning import certificate as certificates
from provisioning import files, keys
from provisioning.errors import ProvisioningError, Refused
from provisioning.files import SECRET, NewFile

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from cryptography import x509

    from provisioning.keys import PrivateKey
    from provisioning.role import Role


class Identity(NamedTuple):
    """Who a machine is.

    Attributes:
        certificate: the machine's.
        key: its private key.
        authority: the fleet's.
    """

    certificate: x509.Certificate
    key: PrivateKey
    authority: x509.Certificate

    @property
    def name(self) -> str:
        """The machine's name."""
        return certificates.name_of(self.certificate)

    @property
    def role(self) -> Role:
        """What the machine is for."""
        return certificates.role_of(self.certificate)


class Place(Struct, frozen=True):
    """Where a machine belongs.

    Attributes:
        name: the machine's.
        broker: its address, as for --broker; empty where nobody has said.
        root: of all topics.
    """

    name: str
    broker: str = ""
    root: str = "sled/v1"


class IdentityFolder:
    """One machine's folder.

    Args:
        path: of the folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.identity_file = path / "identity.pem"
        self.authority_file = path / "ca.pem"
        self.place_file = path / "enrolment.json"
        self.pending_file = path / "pending.pem"

    def identity(self) -> Identity | None:
        """Return who this machine is; None if it is nobody yet. Whether the certificate still holds is not asked.

        Raises:
            ProvisioningError: others may read the key, or a file is damaged or missing.
            Refused: key and certificate do not belong together, or the certificate is not of the authority beside it.
        """
        pem = files.read_secret(self.identity_file, "the identity")
        if pem is None:
            return None
        authority = self.authority()
        if authority is None:
            raise ProvisioningError(
                f"{self.authority_file}, the certificate of the fleet's authority, is missing: copy it here, or "
                "enrol again"
            )
        what = f"the identity {self.identity_file}"
        key = keys.from_pem(pem, what)
        certificate = certificates.read_certificate(pem, what)
        if keys.key_digest(key.public_key()) != keys.key_digest(certificates.public_key_of(certificate)):
            raise Refused(
                "wrong_key",
                f"{self.identity_file} holds the certificate of {certificates.name_of(certificate)!r} and the key of "
                "another: enrol this machine again",
            )
        certificates.check_issuer(certificate, authority)
        return Identity(certificate, key, authority)

    def require_identity(self) -> Identity:
        """Return who this machine is, or raise ProvisioningError as `identity` does and if it is nobody yet."""
        identity = self.identity()
        if identity is None:
            raise ProvisioningError(
                f"{self.path} holds no identity: get one with `sled enroll --token …`, or name its folder "
                "with --identity"
            )
        return identity

    def authority(self) -> x509.Certificate | None:
        """Return the authority that this machine trusts, if it knows one."""
        pem = files.read(self.authority_file, "the certificate of the fleet's authority")
        return None if pem is None else certificates.read_certificate(pem, f"{self.authority_file}")

    def place(self) -> Place | None:
        """Return where this machine belongs, if it was told.

        Raises:
            ProvisioningError: the file is damaged.
        """
        text = files.read(self.place_file, "the file")
        if text is None:
            return None
        try:
            return msgspec.json.decode(text, type=Place)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise ProvisioningError(f"{self.place_file} is damaged ({error}): enrol again") from None

    def pending_key(self) -> PrivateKey | None:
        """Return the key that waits for its certificate, if there is one."""
        pem = files.read_secret(self.pending_file, "the key")
        return None if pem is None else keys.from_pem(pem, f"the key {self.pending_file}")

    def take_pending_key(self) -> PrivateKey:
        """Return the key that waits for its certificate; a new one, on disk before anybody hears of it, if none does.

        Raises:
            ProvisioningError: it cannot be written, or the one that waits is damaged or open to others.
        """
        key = self.pending_key()
        if key is None:
            key = keys.generate()
            files.write([NewFile(self.pending_file, keys.to_pem(key), SECRET)])
        return key

    def expect(self, place: Place, authority: x509.Certificate | None) -> None:
        """Note where this machine will belong, and whom it trusts, before it has an identity."""
        new = [self._place_file(place)]
        if authority is not None:
            new.append(NewFile(self.authority_file, certificates.to_pem(authority).encode()))
        files.write(new)

    def install(self, identity: Identity, place: Place) -> None:
        """Make this the machine's identity; until the last step the one before stays whole.

        Raises:
            ProvisioningError: the disk is full, or the folder cannot be written to; the identity before is as it was.
        """
        pem = keys.to_pem(identity.key) + certificates.to_pem(identity.certificate).encode()
        files.write(
            [
                NewFile(self.authority_file, certificates.to_pem(identity.authority).encode()),
                self._place_file(place),
                NewFile(self.identity_file, pem, SECRET),
            ]
        )
        files.remove(self.pending_file)

    def tls(self) -> Tls:
        """Return the files with which this machine connects."""
        return Tls(self.authority_file, self.identity_file, self.identity_file)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Let one command at a time change this folder, which is made if need be.

        Raises:
            ProvisioningError: another one does, or the folder cannot be written to.
        """
        files.make_folder(self.path, 0o700)
        with files.locked(self.path, "identity"):
            yield

    def _place_file(self, place: Place) -> NewFile:
        return NewFile(self.place_file, msgspec.json.format(msgspec.json.encode(place), indent=2) + b"\n")
