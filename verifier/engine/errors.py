"""The one error of the engine."""

from __future__ import annotations


class EngineError(Exception):
    """The target model cannot be loaded, or a step cannot be done; the message says what, where and what to do.

    Attributes:
        session: the session at fault where there is exactly one (a caller may leave it out and step the others
            again), else None.
    """

    def __init__(self, message: str, *, session: bytes | None = None) -> None:
        super().__init__(message)
        self.session = session
