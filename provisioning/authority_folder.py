"""The authority on disk: its key, its certificate, the registry and the revocation list, in one folder.

    ca.key           0600   PKCS #8, protected by a passphrase if one was chosen
    ca.pem           0644   the certificate that all machines and brokers trust
    registry.json    0600   who is there and what was issued
    crl.pem          0644   what is void; a broker reads it

Every change is made under a lock and is whole or not at all. The registry is written first, so that a list that was
lost in a power cut is written again by the next command.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeVar

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from provisioning import certificate as certificates
from provisioning import files, keys
from provisioning import registry as book
from provisioning.authority import AUTHORITY_LIFETIME, LIST_LIFETIME, Authority, found, sign_list
from provisioning.errors import ProvisioningError
from provisioning.files import OPEN, SECRET, NewFile

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from datetime import datetime, timedelta
    from pathlib import Path

    from provisioning.registry import Registry

R = TypeVar("R")

_LOCKED_FOR: Final = 30.0
"""Seconds to wait for another command."""


class AuthorityFolder:
    """One authority's folder.

    Args:
        path: of the folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.key_file = path / "ca.key"
        self.certificate_file = path / "ca.pem"
        self.registry_file = path / "registry.json"
        self.list_file = path / "crl.pem"

    def create(
        self,
        name: str,
        *,
        now: datetime,
        passphrase: bytes | None = None,
        lifetime: timedelta = AUTHORITY_LIFETIME,
        dry_run: bool = False,
    ) -> bool:
        """Make the authority; False if it is there already, which is left as it is.

        Raises:
            ProvisioningError: the folder holds half of one, or cannot be written to.
        """
        if dry_run:
            return not self._is_there()
        files.make_folder(self.path)
        with self._locked():
            if self._is_there():
                return False
            authority = found(keys.generate(), name, serial=x509.random_serial_number(), now=now, lifetime=lifetime)
            registry = book.next_list(book.Registry())
            files.write(
                [
                    NewFile(self.key_file, keys.to_pem(authority.key, passphrase), SECRET),
                    NewFile(self.registry_file, book.encode(registry), SECRET),
                    NewFile(self.list_file, _list(authority, registry, now)),
                    *self._derived(registry, now),
                    NewFile(self.certificate_file, certificates.to_pem(authority.certificate).encode(), OPEN),
                ]
            )
        return True

    def certificate(self) -> x509.Certificate:
        """Return the authority's certificate.

        Raises:
            ProvisioningError: there is none here.
        """
        pem = files.read(self.certificate_file, "the authority's certificate")
        if pem is None:
            raise ProvisioningError(
                f"{self.path} holds no authority: make one with `sled ca init`, or name it with --ca"
            )
        return certificates.read_certificate(pem, f"{self.certificate_file}")

    def is_protected(self) -> bool:
        """Whether the key needs a passphrase."""
        return b"ENCRYPTED" in (files.read_secret(self.key_file, "the authority's key") or b"")

    def authority(self, passphrase: bytes | None = None) -> Authority:
        """Return the authority with its key.

        Raises:
            ProvisioningError: there is none, others may read its key, or the passphrase is missing or wrong.
        """
        certificate = self.certificate()
        pem = files.read_secret(self.key_file, "the authority's key")
        if pem is None:
            raise ProvisioningError(
                f"the authority's key {self.key_file} is missing: restore it from a backup; without it nothing can be "
                "issued or revoked"
            )
        key = keys.from_pem(pem, f"the authority's key {self.key_file}", passphrase)
        if keys.key_digest(key.public_key()) != keys.key_digest(certificates.public_key_of(certificate)):
            raise ProvisioningError(
                f"{self.key_file} is not the key of {self.certificate_file}: restore the one that is wrong"
            )
        return Authority(certificate, key)

    def registry(self) -> Registry:
        """Return the book as it is now.

        Raises:
            ProvisioningError: it is missing or damaged.
        """
        text = files.read(self.registry_file, "the registry")
        if text is None:
            self.certificate()
            raise ProvisioningError(
                f"the registry {self.registry_file} is missing: restore it from a backup. Without it the certificates "
                "issued so far cannot be revoked"
            )
        return book.decode(text)

    def change(
        self,
        alter: Callable[[Registry], tuple[Registry, R]],
        *,
        now: datetime,
        authority: Authority | None = None,
        dry_run: bool = False,
    ) -> R:
        """Change the book, one command at a time, and return what `alter` says.

        With the authority, the revocation list is written too where it has changed or half of its time is over, and
        what expired long ago is forgotten. What makes certificates void needs the authority.

        Raises:
            ProvisioningError: whatever `alter` raises; another command holds the lock; the disk is full. Nothing was
                changed then.
        """
        if dry_run:
            return alter(self.registry())[1]
        with self._locked():
            before = self.registry()
            after, result = alter(before)
            changed: list[NewFile] = []
            if authority is not None:
                after = book.pruned(after, now)
                if after.revocations != before.revocations or self._list_is_due(before, authority, now):
                    after = book.next_list(after)
                    changed.append(NewFile(self.list_file, _list(authority, after, now)))
            if after != before:
                changed.insert(0, NewFile(self.registry_file, book.encode(after), SECRET))
            try:
                derived = self._derived(after, now)
            except ProvisioningError:
                files.write(changed)  # what follows from the registry must not keep a stolen machine from being revoked
                raise
            files.write([*changed, *derived])
        return result

    def _derived(self, registry: Registry, now: datetime) -> list[NewFile]:  # noqa: ARG002 -- for those who have some
        """Return what else has to be written, so that all files here say what the registry says."""
        return []

    def _is_there(self) -> bool:
        if self.certificate_file.exists():
            self.certificate()
            return True
        if self.key_file.exists():
            raise ProvisioningError(
                f"{self.path} holds a key of an authority ({self.key_file.name}), but not its certificate "
                f"({self.certificate_file.name}): restore it from a backup, or move the key away to begin anew"
            )
        return False

    def list_is_due(self, authority: Authority, now: datetime) -> bool:
        """Whether `change` would write the revocation list, whatever else it changed.

        Raises:
            ProvisioningError: the registry is missing or damaged, or the list cannot be read.
        """
        registry = self.registry()
        return book.pruned(registry, now).revocations != registry.revocations or self._list_is_due(
            registry, authority, now
        )

    def _list_is_due(self, registry: Registry, authority: Authority, now: datetime) -> bool:
        pem = files.read(self.list_file, "the revocation list")
        try:
            current = x509.load_pem_x509_crl(pem or b"")
            genuine = current.is_signature_valid(authority.key.public_key())
            number = current.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
            ends = current.next_update_utc
        except (*certificates.UNREADABLE, x509.ExtensionNotFound):
            return True
        return number != registry.list_number or not genuine or ends is None or now > ends - LIST_LIFETIME / 2

    def _locked(self) -> AbstractContextManager[None]:
        return files.locked(self.path, "authority", within=_LOCKED_FOR)


def _list(authority: Authority, registry: Registry, now: datetime) -> bytes:
    revoked = [(int(entry.serial, 16), entry.since) for entry in registry.revocations]
    return sign_list(authority, revoked, number=registry.list_number, now=now).public_bytes(Encoding.PEM)
