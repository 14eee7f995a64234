"""An authority's folder that also says who may do what, in the files that a broker reads.

access.json      0644   for `sled broker`, whichever broker it runs
mosquitto.acl    0644   for a Mosquitto that somebody else runs
fleet.json       0644   the root of all topics, where it is not the usual one
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct

from broker.access import Identity
from provisioning import files
from provisioning.access import access
from provisioning.authority import AUTHORITY_LIFETIME
from provisioning.authority_folder import AuthorityFolder
from provisioning.errors import ProvisioningError
from provisioning.files import OPEN, SECRET, NewFile
from provisioning.registry import identities
from provisioning.render import render
from provisioning.reports import RulesReport
from schemas.errors import InvalidTopic
from schemas.topics import DEFAULT_ROOT, Topics

if TYPE_CHECKING:
    from datetime import datetime, timedelta
    from pathlib import Path

    from broker.access import Access
    from provisioning.registry import Registry
    from provisioning.render import Rendered, Target


class Terms(Struct, frozen=True, forbid_unknown_fields=True):
    """What holds for a whole fleet.

    Attributes:
        root: of all topics.
    """

    root: str = DEFAULT_ROOT


class PublishedAuthority(AuthorityFolder):
    """One authority's folder, whose access files follow its registry.

    They are written with it: on a full disk all stays as it was. What a loss of power left behind the registry is
    written by the next command.

    Args:
        path: of the folder.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.access_file = path / "access.json"
        self.acl_file = path / "mosquitto.acl"
        self.terms_file = path / "fleet.json"

    @property
    def root(self) -> str:
        """The root of all topics of this fleet.

        Raises:
            ProvisioningError: the file is damaged.
        """
        text = files.read(self.terms_file, "the file")
        if text is None:
            return DEFAULT_ROOT
        try:
            return Topics(msgspec.json.decode(text, type=Terms).root).root
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, InvalidTopic) as error:
            raise ProvisioningError(f"{self.terms_file} is damaged ({error}): restore it from a backup") from None

    def settle(self, root: str, *, now: datetime, dry_run: bool = False) -> bool:
        """Choose the root of all topics; where it is the usual one, no file is needed to say so. False if it is that.

        Raises:
            InvalidTopic: it is no topic.
            ProvisioningError: this fleet has another one already.
        """
        wanted, known = Topics(root).root, self.root
        if wanted == known:
            return False
        if self.terms_file.exists() or (self.registry_file.exists() and self.registry().devices):
            raise ProvisioningError(
                f"this fleet's topics begin with {known!r}, and machines rely on that: leave out --root, or make "
                "another authority"
            )
        if not dry_run:
            text = msgspec.json.format(msgspec.json.encode(Terms(wanted)), indent=2) + b"\n"
            files.write([NewFile(self.terms_file, text)])
            self.publish(now)
        return True

    def create(
        self,
        name: str,
        *,
        now: datetime,
        passphrase: bytes | None = None,
        lifetime: timedelta = AUTHORITY_LIFETIME,
        dry_run: bool = False,
    ) -> bool:
        """As `AuthorityFolder.create`; for one that is there already, the access files are put right."""
        made = super().create(name, now=now, passphrase=passphrase, lifetime=lifetime, dry_run=dry_run)
        if not made and not dry_run:
            self.publish(now)
        return made

    def publish(self, now: datetime) -> None:
        """Write the access files, where they are not what they should be.

        Args:
            now: with a time zone; tokens that have expired by then open nothing.

        Raises:
            ProvisioningError: the disk is full, or the folder cannot be written to; the files are as they were.
        """
        self.change(lambda registry: (registry, None), now=now)

    def write_rules(self, target: Target, out: Path, *, now: datetime, dry_run: bool = False) -> RulesReport:
        """Write who may do what as the files of one kind of broker.

        Args:
            target: the kind.
            out: the folder; it is made if it is not there.
            now: with a time zone.
            dry_run: only say whether they would change.

        Raises:
            ProvisioningError: the registry is missing or damaged, or the folder cannot be written to.
        """
        wanted = [_file(out, one) for one in render(self._table(self.registry(), now), target)]
        changed = [file for file in wanted if files.read(file.path, "the file") != file.content]
        if not dry_run:
            files.make_folder(out)
            files.write(changed)
        return RulesReport(tuple(str(file.path) for file in wanted), changed=bool(changed), dry_run=dry_run)

    def _table(self, registry: Registry, now: datetime) -> Access:
        return access([Identity(name, role) for name, role in identities(registry, now)], self.root)

    def _derived(self, registry: Registry, now: datetime) -> list[NewFile]:
        table = self._table(registry, now)
        wanted = [_file(self.path, one) for one in (*render(table, "embedded"), *render(table, "mosquitto"))]
        # A broker reads a file again that was replaced, so one that says the same stays.
        return [file for file in wanted if files.read(file.path, "the file") != file.content]


def _file(folder: Path, rendered: Rendered) -> NewFile:
    return NewFile(folder / rendered.name, rendered.text.encode(), SECRET if rendered.secret else OPEN)
