"""Files that are written whole or not at all, and keys that nobody else may read."""

from __future__ import annotations

import errno
import os
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from filelock import FileLock, Timeout

from broker.secret import exposed
from provisioning.errors import ProvisioningError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

SECRET: Final = 0o600
"""Mode of what holds a key."""
OPEN: Final = 0o644
"""Mode of what anybody may read: certificates and revocation lists."""

_NEW: Final = ".new"
_MOST_BYTES: Final = 64 * 2**20


class NewFile(NamedTuple):
    """A file to write.

    Attributes:
        path: where.
        content: what.
        mode: permissions, whatever the umask says.
    """

    path: Path
    content: bytes
    mode: int = OPEN


def write(files: Sequence[NewFile]) -> None:
    """Write files, each whole or not at all, in this order.

    All of them are on disk under other names before the first takes its place, so that a full disk changes nothing.
    A loss of power between two of them leaves the first ones new and the others as they were.

    Raises:
        ProvisioningError: the disk is full, or a place cannot be written to; nothing was changed.
    """
    staged: list[tuple[Path, Path]] = []
    try:
        for file in files:
            with _disk_errors(file.path):
                staged.append((_stage(file), file.path))
        for temporary, path in staged:
            with _disk_errors(path):
                temporary.replace(path)
        for folder in {path.parent for _, path in staged}:
            _sync_folder(folder)
    finally:
        for temporary, _ in staged:
            with suppress(OSError):
                temporary.unlink()


def clear_leftovers(folder: Path) -> None:
    """Remove what a command that was killed while it wrote has left; call it under the folder's lock."""
    with suppress(OSError):
        for leftover in folder.glob(f".*{_NEW}"):
            leftover.unlink()


@contextmanager
def locked(folder: Path, whose: str, *, within: float = 0.0) -> Iterator[None]:
    """Let one command at a time change a folder, which is there.

    Args:
        folder: to be changed.
        whose: what it holds, for a sentence.
        within: seconds to wait for another command.

    Raises:
        ProvisioningError: another one changes it, or it cannot be written to.
    """
    lock = FileLock(folder / ".lock", mode=SECRET)
    try:
        lock.acquire(timeout=within)
    except Timeout:
        what = f"has been changing {folder} for {within:.0f} s" if within else f"is changing {folder}"
        raise ProvisioningError(f"another command {what}: wait for it to end") from None
    except OSError as error:
        raise ProvisioningError(
            f"{folder} cannot be written to ({error.strerror}): run this as the user whose {whose} it is"
        ) from error
    try:
        clear_leftovers(folder)
        yield
    finally:
        lock.release()


def make_folder(path: Path, mode: int = 0o755) -> None:
    """Make a folder and those above it, unless it is there.

    Raises:
        ProvisioningError: it cannot be made.
    """
    with _disk_errors(path):
        path.mkdir(mode=mode, parents=True, exist_ok=True)


def remove(path: Path) -> None:
    """Remove a file, if it is there.

    Raises:
        ProvisioningError: it cannot be removed.
    """
    with _disk_errors(path):
        path.unlink(missing_ok=True)


def read(path: Path, what: str) -> bytes | None:
    """Return what is in a file; None if there is none.

    Raises:
        ProvisioningError: it cannot be read, or is far too large to be what it should be.
    """
    try:
        with path.open("rb") as file:
            return _read_bounded(file.fileno(), path, what)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ProvisioningError(f"{what} {path} cannot be read ({error.strerror}): check its permissions") from error


def read_secret(path: Path, what: str, *, otherwise: str = "revoke the identity and make a new one") -> bytes | None:
    """Return what is in a file that holds a key or what opens one; None if there is none.

    Others must have no access to it (`broker.secret`). `otherwise` is what to do where somebody may have read it.

    Raises:
        ProvisioningError: others may read it or a group may write it, or as `read`.
    """
    with suppress(OSError):
        if mode := exposed(path):
            raise ProvisioningError(
                f"{what} {path} has mode {mode}, so that others than its owner can get at it: run "
                f"`chmod 600 {path}`, and if somebody may have read it, {otherwise}"
            )
    return read(path, what)


def _stage(file: NewFile) -> Path:
    descriptor, name = tempfile.mkstemp(prefix=f".{file.path.name}.", suffix=_NEW, dir=file.path.parent)
    try:
        with os.fdopen(descriptor, "wb") as output:
            os.fchmod(descriptor, file.mode)
            output.write(file.content)
            output.flush()
            os.fsync(descriptor)
    except BaseException:
        with suppress(OSError):
            Path(name).unlink()
        raise
    return Path(name)


def _sync_folder(folder: Path) -> None:
    with suppress(OSError):  # some file systems cannot; the files themselves are safe
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _read_bounded(descriptor: int, path: Path, what: str) -> bytes:
    if os.fstat(descriptor).st_size > _MOST_BYTES:
        raise ProvisioningError(f"{what} {path} has more than {_MOST_BYTES} bytes: it cannot be what it should be")
    with os.fdopen(os.dup(descriptor), "rb") as file:
        return file.read(_MOST_BYTES)


@contextmanager
def _disk_errors(path: Path) -> Iterator[None]:
    """Turn what the file system refuses into sentences."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise ProvisioningError(
                f"the disk is full ({error.strerror}): {path} was not written, and what was there is as it was; make "
                "room and try again"
            ) from error
        raise ProvisioningError(
            f"{path} cannot be written ({error.strerror}), and what was there is as it was: check the folder and its "
            "permissions"
        ) from error
