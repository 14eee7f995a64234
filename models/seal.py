"""`sled.json`: where a folder came from, and the checksums that show whether it is still whole."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import msgspec

from models.error import ModelError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

_NAME = "sled.json"


class Seal(msgspec.Struct, frozen=True):
    """What `sled.json` says.

    Attributes:
        source: what the folder was made from, in words.
        version: the version of that source.
        sha256: checksum of each heavy file, by its name in the folder.
    """

    source: str
    version: str
    sha256: dict[str, str]


def seal_folder(folder: Path, *, source: str, version: str, files: Iterable[str]) -> Seal:
    """Write `sled.json` with the checksums of `files`."""
    seal = Seal(source=source, version=version, sha256={name: sha256_of(folder / name) for name in files})
    (folder / _NAME).write_bytes(msgspec.json.format(msgspec.json.encode(seal)) + b"\n")
    return seal


def read_seal(folder: Path) -> Seal | None:
    """Return what `sled.json` says; None for a folder that was not made here.

    Raises:
        ModelError: the file is damaged.
    """
    path = folder / _NAME
    if not path.is_file():
        return None
    try:
        return msgspec.json.decode(path.read_bytes(), type=Seal)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ModelError(f"{path} is damaged ({error}); delete {folder} and make it again.") from error


def check_seal(folder: Path) -> Seal | None:
    """Compare the folder with its seal; return the seal, or None where there is none.

    Raises:
        ModelError: a file is missing or was changed.
    """
    seal = read_seal(folder)
    for name, expected in (seal.sha256 if seal else {}).items():
        path = folder / name
        try:
            found = sha256_of(path) if path.is_file() else None
        except OSError as error:
            raise ModelError(f"{path} cannot be read ({error.strerror}); delete {folder} and make it again.") from error
        if found is None:
            raise ModelError(f"{path} is missing; delete {folder} and make it again.")
        if found != expected:
            raise ModelError(
                f"{path} is damaged: its checksum is not the one written when it was made. "
                f"Delete {folder} and make it again."
            )
    return seal


def digest_of(folder: Path, weights: Iterable[str]) -> str:
    """Return one short checksum of all weights of a model, from its folder's seal where it has one.

    Args:
        folder: of the model.
        weights: names of its weight files.

    Raises:
        ModelError: the seal is damaged.
    """
    seal = read_seal(folder)
    known = seal.sha256 if seal else {}
    sums = [known.get(name) or sha256_of(folder / name) for name in weights]
    return hashlib.sha256("".join(sums).encode()).hexdigest()[:16]


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
