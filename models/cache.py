"""Where models are kept, and how a folder comes into being there whole or not at all."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import platformdirs

from models.error import ModelError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from models.progress import Progress

_ELSEWHERE = "with --out or SLED_CACHE"
"""What a person gives: a folder that is asked for lies where --out says, every other one in the cache."""


def models_folder() -> Path:
    """Return the folder of all models: `$SLED_CACHE/models`, or `models` in the user's cache folder for sled."""
    chosen = os.environ.get("SLED_CACHE")
    root = Path(chosen).expanduser() if chosen else platformdirs.user_cache_path("sled")
    return root / "models"


@contextmanager
def locked(final: Path, progress: Progress) -> Iterator[None]:
    """Let one process at a time make the folder `final`; the lock ends with the process, however it ends.

    Raises:
        ModelError: the place cannot be written to.
    """
    from filelock import FileLock, Timeout  # noqa: PLC0415 - comes with an extra

    with writing(final.parent):
        final.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(final.parent / f".{final.name}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            progress(f"Waiting for another process that makes {final.name}", 0, None)
            lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextmanager
def building(final: Path, *, needs: int) -> Iterator[Path]:
    """Give an empty folder to build in, which becomes `final` (replacing it) if the block ends without an error.

    Call it under `locked`. Whatever an earlier, interrupted process left is removed first.

    Args:
        final: the folder to make; its parent exists.
        needs: bytes that will be written, checked beforehand.

    Raises:
        ModelError: the disk is full, or the place cannot be written to.
    """
    with writing(final.parent):
        for leftover in final.parent.glob(f".{final.name}.partial-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        free = shutil.disk_usage(final.parent).free
        if free < needs:
            raise ModelError(
                f"Making {final.name} needs {needs / 1e9:.1f} GB in {final.parent}, where {free / 1e9:.1f} GB are "
                f"free; make room, or choose a folder on another disk {_ELSEWHERE}."
            )
        partial = Path(tempfile.mkdtemp(prefix=f".{final.name}.partial-", dir=final.parent))
        try:
            yield partial
            _open_to_readers(partial)
            _replace(partial, final)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give the path of a file to write, which becomes `path` (replacing it) if the block ends without an error.

    What an interrupted process left is written over by the next one.
    """
    partial = path.with_suffix(".partial")
    yield partial
    partial.replace(path)


def _replace(partial: Path, final: Path) -> None:
    if final.exists():  # a damaged one: a folder cannot be renamed over another
        shutil.rmtree(final)
    partial.rename(final)


def _open_to_readers(folder: Path) -> None:
    """Temporary folders and safetensors files are made for their owner only; models may be read by services."""
    folder.chmod(0o755)
    for path in folder.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)


@contextmanager
def writing(place: Path) -> Iterator[None]:
    """Turn what the file system refuses in this block into sentences.

    Args:
        place: what is written, or its folder.

    Raises:
        ModelError: the disk is full, or the place cannot be written to.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ModelError(
                f"The disk of {place} is full; make room, or choose a folder on another disk {_ELSEWHERE}."
            ) from error
        raise ModelError(
            f"{error.filename or place} cannot be written or read ({error.strerror or error}); "
            f"check its permissions, or choose another folder {_ELSEWHERE}."
        ) from error
