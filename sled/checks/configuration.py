"""Whether a configuration file can be read by the role that it is for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sled.checks.check import Check, failed, ok, skipped

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

NAME: Final = "configuration"


def check_configuration(file: Path | None, read: Callable[[Path], object], wrong: type[Exception]) -> Check:
    """Read a configuration file.

    Args:
        file: to read; None where none was named.
        read: reads it for the role.
        wrong: what `read` raises, with a sentence that names file, line and key.
    """
    if file is None:
        return skipped(NAME, "no file was named with --config, or the role has none")
    try:
        read(file)
    except wrong as error:
        return failed(NAME, f"{file} cannot be used", str(error))
    return ok(NAME, f"{file} is valid")
