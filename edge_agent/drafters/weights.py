"""Which weights a drafter runs, in a few digits: folders that are called the same may hold different ones."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

_SEAL = "sled.json"
"""Beside a model that was made here; it holds the checksums of its files."""


def digits_of(files: Iterable[Path]) -> str:
    """Return eight hexadecimal digits that change when a model is replaced, without reading its files.

    A folder with a seal is known by that, wherever it is copied to; another one by size and time of its files.

    Args:
        files: of the model, in one folder.
    """
    digest = hashlib.blake2b(digest_size=4)
    for path in sorted(files):
        seal, status = path.with_name(_SEAL), path.stat()
        known = seal.read_bytes() if seal.is_file() else str(status.st_mtime_ns).encode()
        for part in (path.name.encode(), str(status.st_size).encode(), known):
            digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()
