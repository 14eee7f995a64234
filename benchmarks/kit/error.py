"""Why a measurement cannot be made."""

from __future__ import annotations


class BenchError(Exception):
    """The measurement cannot be made; the message says why."""
