"""Puts the units of a role in place, below any root folder, and takes them away again."""

from __future__ import annotations

import shutil
import subprocess
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Final, Literal

from msgspec import Struct

from provisioning import files
from provisioning.errors import ProvisioningError
from provisioning.files import NewFile
from provisioning.systemd import (
    BESIDE,
    CONFIG,
    MARK,
    RENEWAL,
    UNITS,
    Device,
    ServiceRole,
    config_file,
    first_config,
    identity_folder,
    service_units,
)

What = Literal["made", "changed", "there already", "kept", "removed", "not there"]

_SYSTEM: Final = Path("/")
_KEPT: Final = (PurePosixPath("/var/lib"), PurePosixPath("/var/cache"))
_HIDDEN: Final = ("/home/", "/root/", "/run/user/")
"""What `ProtectHome=` hides from a service."""


class Placed(Struct, frozen=True):
    """What became of a file or folder.

    Attributes:
        path: of it.
        what: became of it.
    """

    path: str
    what: What


class InstallReport(Struct, frozen=True):
    """What an installation, or the end of one, came to.

    Attributes:
        role: which.
        files: what became of each.
        then: what to do next, as commands.
        changed: whether anything was altered.
        dry_run: whether it only would be.
    """

    role: str
    files: tuple[Placed, ...]
    then: tuple[str, ...]
    changed: bool
    dry_run: bool = False

    def describe(self) -> str:
        """Return lines for people."""
        lines = [f"{placed.what:<14} {placed.path}" for placed in self.files]
        if self.dry_run:
            lines.append("nothing was changed: this is what would be")
        if self.then:
            lines += ["then:", *(f"  {command}" for command in self.then)]
        return "\n".join(lines)


class Installation:
    """The files of a role below a root folder.

    Args:
        role: which.
        root: `/` for this machine, or the folder of an image.
    """

    def __init__(self, role: ServiceRole, root: Path = _SYSTEM) -> None:
        self._role = role
        self._root = root
        self._live = root.resolve() == _SYSTEM

    def install(self, program: str, device: Device = Device.CPU, *, dry_run: bool = False) -> InstallReport:
        """Write the units, a configuration where there is none, and a folder for the identity.

        Doing it again replaces the units alone, where they differ.

        Args:
            program: absolute path of the `sled` command, as the machine will see it.
            device: what the role computes on.
            dry_run: only say what would be.

        Raises:
            ProvisioningError: the program is where no service sees it, a unit of this name is somebody else's, or a
                file cannot be written; nothing was changed then.
        """
        if not self._root.is_dir():
            raise ProvisioningError(f"there is no folder {self._root} to install into: make it, or check --root")
        program = self._seen(program)
        new = [self._new(UNITS / unit.name, unit.text) for unit in service_units(self._role, program, device)]
        for file in new:
            self._check_ours(file.path)
        config = self._new(config_file(self._role), first_config(self._role))
        placed = [Placed(str(file.path), _compared(file)) for file in new]
        kept = config.path.exists()
        placed.append(Placed(str(config.path), "kept" if kept else "made"))
        folder = self._at(identity_folder(self._role))
        placed.append(Placed(str(folder), "there already" if folder.is_dir() else "made"))
        changed = any(one.what in ("made", "changed") for one in placed)
        if changed and not dry_run:
            for parent in {file.path.parent for file in (*new, config)}:
                files.make_folder(parent)
            files.make_folder(folder.parent, 0o700)
            files.make_folder(folder, 0o700)
            files.write([*new, *([] if kept else [config])])
            self._reload()
        return InstallReport(self._role, tuple(placed), self._next(folder), changed, dry_run)

    def uninstall(self, *, purge: bool = False, dry_run: bool = False) -> InstallReport:
        """Stop the role and remove its units; its configuration, identity and state stay, unless they are to go too.

        Args:
            purge: remove what stays otherwise.
            dry_run: only say what would be.

        Raises:
            ProvisioningError: a unit of this name is somebody else's, or a file cannot be removed.
        """
        shared = () if self._renewal_is_shared() else RENEWAL
        own = (BESIDE,) if self._role is ServiceRole.BROKER else ()
        paths = [self._at(UNITS / name) for name in (f"sled-{self._role}.service", *own, *shared)]
        for path in paths:
            self._check_ours(path)
        if purge:
            paths.append(self._at(config_file(self._role)))
            paths += [self._at(folder) for folder in self._folders()]
        placed = tuple(Placed(str(path), "removed" if path.exists() else "not there") for path in paths)
        changed = any(one.what == "removed" for one in placed)
        if changed and not dry_run:
            self._stop()
            for path in paths:
                _remove(path)
                if path.name == PurePosixPath(BESIDE).name:
                    with suppress(OSError):  # somebody else's are in it, too
                        path.parent.rmdir()
            self._reload()
        return InstallReport(self._role, placed, (), changed, dry_run)

    def _seen(self, program: str) -> str:
        if program.startswith(_HIDDEN):
            raise ProvisioningError(
                f"sled is installed as {program}, and a service sees nothing below {_HIDDEN[0]}, {_HIDDEN[1]} and "
                f"{_HIDDEN[2]}: install it for the machine (`python3 -m venv /opt/sled && /opt/sled/bin/pip install "
                "sled-mqtt`) and run that one, or name it with --program"
            )
        try:
            service_units(self._role, program)
        except ValueError as error:
            raise ProvisioningError(f"{error}, or name another with --program") from None
        if self._live and not Path(program).is_file():
            raise ProvisioningError(f"there is no program {program}: name the `sled` command with --program")
        return program

    def _check_ours(self, path: Path) -> None:
        text = files.read(path, "the unit")
        if text is not None and not text.startswith(MARK.encode()):
            raise ProvisioningError(
                f"{path} was not written by `sled install`, so it is left alone: move it away, and try again"
            )

    def _renewal_is_shared(self) -> bool:
        """Whether another role still needs the units that renew certificates."""
        others = set(ServiceRole) - {self._role}
        return any(self._at(UNITS / f"sled-{other}.service").exists() for other in others)

    def _folders(self) -> list[PurePosixPath]:
        name = f"sled-{self._role}"
        # With DynamicUser= the folder of a service is in private/, and a link leads to it.
        own = [place / part for place in _KEPT for part in (name, f"private/{name}")]
        return [identity_folder(self._role), *own]

    def _next(self, folder: Path) -> tuple[str, ...]:
        if not self._live:
            return ()
        enrolled = (folder / "identity.pem").exists()
        if self._role is ServiceRole.BROKER:
            first = f"sled device create NAME --role broker --host HOST --ca {CONFIG / 'ca'} --identity {folder}"
        else:
            first = f"sled enroll --token - --identity {folder}"
        units = f"sled-{self._role}.service sled-renew@{self._role}.timer"
        return (*(() if enrolled else (first,)), f"systemctl enable --now {units}")

    def _stop(self) -> None:
        names = [f"sled-{self._role}.service", f"sled-renew@{self._role}.timer"]
        self._systemctl("disable", "--now", *names)
        if not self._live:  # what an image has enabled is a link that would lead nowhere
            for link in self._at(UNITS).glob("*.wants/*"):
                if link.name in names:
                    files.remove(link)

    def _reload(self) -> None:
        self._systemctl("daemon-reload")

    def _systemctl(self, *arguments: str) -> None:
        """Tell systemd, where it runs; what it cannot do it says itself, and that is no reason to stop."""
        program = shutil.which("systemctl")
        if self._live and program is not None and Path("/run/systemd/system").is_dir():
            subprocess.run([program, *arguments], check=False)

    def _new(self, place: PurePosixPath, text: str) -> NewFile:
        return NewFile(self._at(place), text.encode())

    def _at(self, place: PurePosixPath) -> Path:
        return self._root / place.relative_to("/")


def _compared(file: NewFile) -> What:
    known = files.read(file.path, "the unit")
    return "made" if known is None else "there already" if known == file.content else "changed"


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        try:
            shutil.rmtree(path)
        except OSError as error:
            raise ProvisioningError(f"{path} cannot be removed ({error.strerror}): run this as root") from error
    else:
        files.remove(path)
