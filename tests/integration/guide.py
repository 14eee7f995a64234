"""A guide's commands, run as the text has them, on machines that are folders."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple, Self

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from types import TracebackType

_BLOCK: Final = re.compile(r"^```console\n(.*?)^```", re.MULTILINE | re.DOTALL)
_COMMAND: Final = re.compile(r"^([a-z][a-z0-9-]*)\$ (.+?)( &)?$")
_PATIENCE: Final = 120.0


class Command(NamedTuple):
    """What is typed on a machine, and whether it is left running."""

    machine: str
    line: str
    stays: bool


def read_guide(path: Path) -> list[Command]:
    """Return the commands of all console blocks, in order; a line without a machine's prompt is output."""
    lines = "".join(_BLOCK.findall(path.read_text())).splitlines()
    found = [_COMMAND.match(line) for line in lines]
    return [Command(match[1], match[2], match[3] is not None) for match in found if match]


class Machines:
    """Runs commands with a home of its own for each machine; `ssh MACHINE COMMAND …` runs one on another.

    Args:
        folder: where the homes are made.
        changed: what in a command is to be another text here, such as names of hosts.
    """

    def __init__(self, folder: Path, changed: Mapping[str, str]) -> None:
        self._folder = folder
        self._changed = changed
        self._running: list[subprocess.Popen[bytes]] = []
        tools = folder / "tools"
        tools.mkdir()
        ssh = tools / "ssh"
        ssh.write_text(f'#!/bin/sh\nHOME="{folder}/$1"\nexport HOME\nmkdir -p "$HOME"\nshift\nexec "$@"\n')
        ssh.chmod(0o755)
        self._path = f"{tools}{os.pathsep}{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"

    def home(self, machine: str) -> Path:
        """The home folder of a machine."""
        home = self._folder / machine
        home.mkdir(exist_ok=True)
        return home

    def run(self, command: Command) -> str:
        """Run a command to its end and return what it printed, or start one that stays."""
        line = command.line
        for old, new in self._changed.items():
            line = line.replace(old, new)
        home = self.home(command.machine)
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("SLED_", "XDG_"))}
        environment |= {"HOME": str(home), "PATH": self._path, "COLUMNS": "200"}
        arguments = ["bash", "-o", "pipefail", "-c", f"exec {line}" if command.stays else line]
        if command.stays:
            with (home / "log").open("ab") as log:
                self._running.append(
                    subprocess.Popen(
                        arguments, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=home
                    )
                )
            return ""
        done = subprocess.run(
            arguments, env=environment, capture_output=True, text=True, timeout=_PATIENCE, check=False, cwd=home
        )
        assert done.returncode == 0, f"{line} ended with {done.returncode}\n{done.stdout}{done.stderr}\n{self.logs()}"
        return done.stdout

    def check(self) -> None:
        """All that was left running runs."""
        ended = [process.args for process in self._running if process.poll() is not None]
        assert not ended, f"{ended}\n{self.logs()}"

    def logs(self) -> str:
        """The end of each machine's log, for a failure."""
        return "\n".join(self._ends())

    def _ends(self) -> Iterator[str]:
        for log in sorted(self._folder.glob("*/log")):
            yield f"--- {log.parent.name}"
            yield from log.read_text(errors="replace").splitlines()[-15:]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in reversed(self._running):
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
