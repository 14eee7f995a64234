"""Starts roles as processes of their own, as they would run on machines of their own, and watches them."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType


_ENDS_WITH: Final = "SLED_ENDS_WITH"
"""Environment variable: the process with which one that it has started is to end."""
_PR_SET_PDEATHSIG: Final = 1


def end_with_parent() -> None:
    """Have this process told to end (SIGTERM) when the one that started it as a `Process` has ended, be it killed.

    See prctl(2); on systems without it nothing is done.
    """
    parent = os.environ.pop(_ENDS_WITH, "")
    if not parent:
        return
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if str(os.getppid()) != parent:
            sys.exit(128 + signal.SIGTERM)


class ProcessEndedError(Exception):
    """A process ended that should run; the message shows the end of its log."""


class Process:
    """One `sled …` command in the background, its log in a file."""

    def __init__(self, name: str, arguments: list[str], logs: Path) -> None:
        self.name = name
        self.log = logs / f"{name}.log"
        with self.log.open("ab") as log:
            self._popen = subprocess.Popen(
                [sys.executable, "-m", "sled", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, _ENDS_WITH: str(os.getpid())},
            )

    @property
    def pid(self) -> int:
        """The process id."""
        return self._popen.pid

    def check(self) -> None:
        """Raise ProcessEndedError if the process has ended."""
        code = self._popen.poll()
        if code is not None:
            lines = self.log.read_text(errors="replace").splitlines()[-12:]
            raise ProcessEndedError(
                f"{self.name} ended with exit code {code}. The end of its log:\n" + "\n".join(lines)
            )

    def wait(self, timeout: float = 60) -> int:
        """Wait for its end and return the exit code."""
        return self._popen.wait(timeout)

    def kill(self) -> None:
        """End it at once, as a power cut would."""
        self._popen.kill()
        self._popen.wait()

    def stop(self, timeout: float = 10) -> None:
        """End it in good order, or at once if that takes too long."""
        self._popen.terminate()
        try:
            self._popen.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()


class Processes:
    """Several processes; all are ended on leaving, the newest first."""

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._running: list[Process] = []

    def start(self, name: str, *arguments: str) -> Process:
        """Start `sled ARGUMENTS …`."""
        process = Process(name, list(arguments), self._logs)
        self._running.append(process)
        return process

    def check(self) -> None:
        """Raise ProcessEndedError if any process has ended."""
        for process in self._running:
            process.check()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in reversed(self._running):
            process.stop()
