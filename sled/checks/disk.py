"""Whether the device can keep what it must not forget: room, and a spool that can be written."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING, Final

from sled.checks.check import Check, failed, ok, warning

if TYPE_CHECKING:
    from pathlib import Path

SPACE: Final = "disk space"
SPOOL: Final = "spool"

LITTLE: Final = 500 * 2**20
"""Bytes below which somebody should know: Mosquitto's state, logs and updates need room too."""
TOO_LITTLE: Final = 32 * 2**20
"""Bytes below which a burst of requests can fill what is left: a context may have 1.4 MB, and 16 requests wait."""


def check_space(folder: Path, free: int | None = None) -> Check:
    """See that there is room.

    Args:
        folder: of the spool; it may not be there yet.
        free: bytes; looked up if left out.
    """
    place = existing(folder)
    left = shutil.disk_usage(place).free if free is None else free
    found = f"{left / 2**20:,.0f} MiB are free at {place}"
    if left < TOO_LITTLE:
        return failed(SPACE, found, "make room: what cannot be written to the spool is refused")
    if left < LITTLE:
        return warning(SPACE, found, "make room before it runs out")
    return ok(SPACE, found)


def check_spool(file: Path) -> tuple[bool, Check]:
    """See that the spool can be opened, and whether an agent has it open; one that is not there is not made.

    Returns:
        Whether an agent runs with it, and the finding.
    """
    if not file.exists():
        place = existing(file.parent)
        if os.access(place, os.W_OK | os.X_OK):
            return False, ok(SPOOL, f"{file} will be made by the agent")
        return False, failed(
            SPOOL, f"{file} cannot be made: {place} cannot be written to", "run the agent as the user of that folder"
        )
    from edge_agent.spool import Spool, SpoolError  # noqa: PLC0415 -- of a device

    if not os.access(file, os.R_OK | os.W_OK):
        return False, failed(SPOOL, f"{file} cannot be written to", "run this as the agent's user; else chown the file")
    try:
        Spool(file).close()
    except SpoolError as error:
        if "another agent" in str(error):
            return True, ok(SPOOL, f"{file} is in use by a running agent")
        return False, failed(SPOOL, f"{file} cannot be used", str(error))
    return False, ok(SPOOL, f"{file} can be written to; no agent has it open")


def existing(folder: Path) -> Path:
    """Return the folder, or the nearest above it that is there."""
    return next(place for place in (folder, *folder.absolute().parents) if place.is_dir())
