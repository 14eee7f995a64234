"""The `sled` command as a process of its own, and in this one."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Final

import typer
from typer.testing import CliRunner

from sled import provision

if TYPE_CHECKING:
    from typer.testing import Result

COMMAND: Final = [sys.executable, "-m", "sled"]


def process(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end in a process of its own."""
    return subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=120, check=False)


def call(*arguments: str, stdin: str | None = None) -> Result:
    """Run a command in this process, which is cheaper; `Result.exception` is what it raised."""
    app = typer.Typer()
    provision.mount(app)
    return CliRunner().invoke(app, arguments, input=stdin)
