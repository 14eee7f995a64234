"""Writes down what became of every draft, to be looked at later."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from edge_agent.calibration import Calibration
    from edge_agent.drafters.drafter import Proposal
    from edge_agent.policy import Outcome, Policy

_log = logging.getLogger(__name__)


class RecorderError(Exception):
    """Outcomes cannot be written to a file; the message says why and what to do."""


def check_record(path: Path) -> None:
    """See that lines can be added to a file, which is made if it is not there.

    Raises:
        RecorderError: they cannot.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.open("ab").close()
    except OSError as error:
        raise RecorderError(
            f"verdicts cannot be recorded in {path} ({error.strerror}): give --record a file that can be written"
        ) from error


class Recorder:
    """A policy that asks another one and adds each `Outcome` to a file, one JSON object per line.

    A line has the fields of `Outcome`; a measure that is not a number is null. When the file can no longer be written,
    a warning says so and the policy goes on without it.

    Args:
        policy: decides and learns.
        path: added to, so that several runs of an agent make one record.

    Raises:
        RecorderError: the file cannot be written.
    """

    def __init__(self, policy: Policy, path: Path) -> None:
        check_record(path)
        self._policy = policy
        self._path: Path | None = path

    @property
    def max_draft(self) -> int:
        """The policy's."""
        return self._policy.max_draft

    @property
    def calibration(self) -> Calibration | None:
        """The policy's."""
        return self._policy.calibration

    def enough(self, draft: Sequence[Proposal]) -> bool:
        """Return what the policy says."""
        return self._policy.enough(draft)

    def worth(self, draft: Sequence[Proposal]) -> int:
        """Return what the policy says."""
        return self._policy.worth(draft)

    def ahead(self, draft: Sequence[Proposal]) -> bool:
        """Return what the policy says."""
        return self._policy.ahead(draft)

    def learn(self, outcome: Outcome) -> None:
        """Write the outcome down and let the policy learn from it."""
        self._write(msgspec.json.encode(outcome) + b"\n")
        self._policy.learn(outcome)

    def _write(self, line: bytes) -> None:
        if self._path is None:
            return
        try:
            with self._path.open("ab") as file:
                file.write(line)
        except OSError as error:
            _log.warning("verdicts are no longer recorded, since %s cannot be written (%s)", self._path, error.strerror)
            self._path = None
