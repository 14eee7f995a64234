"""What an identity is for."""

from __future__ import annotations

from enum import StrEnum


class Role(StrEnum):
    """What an identity is for; it stands in its certificate as organisational unit."""

    DEVICE = "device"
    VERIFIER = "verifier"
    APP = "app"
    OPERATOR = "operator"
    SWEEPER = "sweeper"
    BROKER = "broker"
    """The server side of TLS: the one role whose certificate proves a host name."""
    ENROLMENT = "enrolment"
    """A token's bootstrap identity: short-lived, and good for one enrolment."""


GIVEN = tuple(role for role in Role if role is not Role.ENROLMENT)
"""The roles that an operator gives; a bootstrap identity comes with a token only."""
