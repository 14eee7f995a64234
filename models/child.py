"""A Python program run as a child process, its output read line by line."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

_TAIL = 12
"""Lines of output kept to explain a failure."""


class ChildError(Exception):
    """A child process failed; the message is the last lines of its output."""


def run_python(
    arguments: Sequence[str],
    *,
    on_line: Callable[[str], None],
    folder: Path,
    environment: Mapping[str, str] | None = None,
) -> None:
    """Run `python ARGUMENTS` with this interpreter until it ends; it is ended if this call is interrupted.

    Args:
        arguments: what follows `python`.
        on_line: called with each line of its output; a carriage return ends a line too, as progress bars use it.
        folder: its working and temporary folder.
        environment: variables set for it besides those of this process.

    Raises:
        ChildError: it ended with an error.
        OSError: it ended because the disk was full.
    """
    tail: deque[str] = deque(maxlen=_TAIL)
    process = subprocess.Popen(
        [sys.executable, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        cwd=folder,
        env=os.environ | {"PYTHONUNBUFFERED": "1", "TMPDIR": str(folder)} | dict(environment or {}),
    )
    with process:
        try:
            for raw in process.stdout or ():
                if line := raw.strip():
                    tail.append(line)
                    on_line(line)
        except BaseException:
            process.kill()
            raise
    if process.returncode != 0:
        if any(os.strerror(errno.ENOSPC) in line for line in tail):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))
        raise ChildError("\n".join(tail) or f"It printed nothing and ended with {process.returncode}.")
