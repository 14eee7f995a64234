"""One finding of `sled doctor`, and all of them together. Pure."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from msgspec import Struct

WELL: Final = 0
FAILED: Final = 1
NOT_SAID: Final = 2
"""Exit codes of `sled doctor`: all is well; something is wrong; nothing is, but not everything could be looked at."""


class Outcome(StrEnum):
    """What came of a check."""

    OK = "ok"
    WARNING = "warning"
    """It works, or will for a while, and somebody should know."""
    FAILED = "failed"
    SKIPPED = "skipped"
    """It does not apply here, or waits for something that failed."""
    UNKNOWN = "unknown"
    """It should have been looked at, and could not be."""


class Check(Struct, frozen=True, omit_defaults=True):
    """One finding.

    Attributes:
        name: what was looked at; stays the same from release to release.
        outcome: what came of it.
        found: what was seen, or why nothing was looked at; a sentence or a part of one.
        do: what to do about it; empty where nothing needs to be done.
    """

    name: str
    outcome: Outcome
    found: str
    do: str = ""


class Examination(Struct, frozen=True):
    """All findings about one role on one machine.

    Attributes:
        role: `agent`, `verifier`, `app` or `broker`.
        checks: in the order in which they were made; a later one may rest on earlier ones.
    """

    role: str
    checks: tuple[Check, ...]

    @property
    def exit_code(self) -> int:
        """What the command ends with; warnings and what was skipped do not count."""
        outcomes = {check.outcome for check in self.checks}
        if Outcome.FAILED in outcomes:
            return FAILED
        return NOT_SAID if Outcome.UNKNOWN in outcomes else WELL

    def count(self, outcome: Outcome) -> int:
        """Return how many checks had this outcome."""
        return sum(check.outcome is outcome for check in self.checks)


def ok(name: str, found: str) -> Check:
    """Return a finding that is as it should be."""
    return Check(name, Outcome.OK, found)


def warning(name: str, found: str, do: str) -> Check:
    """Return a finding that somebody should know of."""
    return Check(name, Outcome.WARNING, found, do)


def failed(name: str, found: str, do: str) -> Check:
    """Return a finding that keeps the role from working."""
    return Check(name, Outcome.FAILED, found, do)


def skipped(name: str, why: str, do: str = "") -> Check:
    """Return that something was not looked at, for a good reason."""
    return Check(name, Outcome.SKIPPED, why, do)


def unknown(name: str, why: str, do: str) -> Check:
    """Return that something could not be looked at."""
    return Check(name, Outcome.UNKNOWN, why, do)
