"""Whether a file that holds a secret is one."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def exposed(path: Path) -> str:
    """Return the mode of a file as `chmod` writes it if others may read it or a group may write it, else nothing.

    A group may read it: that is how systemd hands a credential to a service, and how Debian shares keys.

    Raises:
        OSError: it cannot be looked at.
    """
    mode = stat.S_IMODE(path.stat().st_mode)
    return f"{mode:04o}" if mode & 0o037 else ""
