"""One error type per kind of bad input that reaches a SLED process from outside.

Every error is a sentence for the person who reads it and carries a stable `code` for programs. The codes are the ones
a `Refusal` or an `error` answer event carries.
"""

from __future__ import annotations

from typing import ClassVar


class WireError(ValueError):
    """Bytes or a topic from outside do not follow the wire contract."""

    code: ClassVar[str] = "malformed"


class PayloadTooLarge(WireError):
    """The payload has more bytes than its kind may have."""

    code = "too_large"


class PayloadTruncated(WireError):
    """The payload ends in the middle of a message."""

    code = "truncated"


class PayloadMalformed(WireError):
    """The payload is not a message of this protocol at all."""

    code = "malformed"


class NotText(WireError):
    """The payload should be UTF-8 text and is not."""

    code = "not_utf8"


class UnsupportedVersion(WireError):
    """The payload is of a major version that this side does not speak."""

    code = "unsupported_version"


class UnexpectedKind(WireError):
    """The payload is a message of another kind than this topic carries."""

    code = "unexpected_kind"


class InvalidField(WireError):
    """A field has the wrong type, size or range."""

    code = "invalid_field"


class InvalidTopic(WireError):
    """A topic, or a name that should become part of one, does not follow the contract."""

    code = "invalid_topic"
