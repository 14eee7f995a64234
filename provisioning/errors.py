"""What can go wrong with identities. Every message is a sentence for the person who reads it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from schemas.enrolment import RefusalReason


class ProvisioningError(Exception):
    """The base of every error of this room: it could not be done, and a sentence says why and what to do."""


class Refused(ProvisioningError):
    """A certificate, a signing request or a token is not what it must be.

    Attributes:
        code: for programs, as an answer to an enrolment request carries it.
    """

    def __init__(self, code: RefusalReason, sentence: str) -> None:
        super().__init__(sentence)
        self.code: RefusalReason = code
