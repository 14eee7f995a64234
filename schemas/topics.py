"""Build and parse topics. Section of the contract: one root, per-device topics, ids without wildcards."""

from __future__ import annotations

import re
from enum import Enum

from msgspec import Struct

from schemas.errors import InvalidTopic
from schemas.limits import ID_BYTES

DEFAULT_ROOT = "sled/v1"

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_REQUEST = re.compile(r"[A-Za-z0-9_-]{1,64}")
_BOOTSTRAP = re.compile(r"enroll\.[0-9a-f]{16}")
_ROOT = re.compile(r"[A-Za-z0-9_-]+(/[A-Za-z0-9_-]+)*")


class Family(Enum):
    """What a topic carries."""

    DEVICE_STATE = "device/{device}/state"
    SESSION = "device/{device}/session/{session}"
    DRAFT = "device/{device}/draft/{verifier}"
    VERDICT = "device/{device}/verdict"
    VERIFIER_STATE = "verifier/{verifier}/state"
    ASK = "device/{device}/ask"
    CANCEL = "device/{device}/cancel"
    ANSWER = "device/{device}/answer/{request}"
    ENROL_REQUEST = "enroll/{identity}/request"
    ENROL_ANSWER = "enroll/{identity}/answer"


class Topic(Struct, frozen=True):
    """A parsed topic: its family and the names in it; names the family does not have are empty."""

    family: Family
    device: str = ""
    verifier: str = ""
    session: bytes = b""
    request: str = ""
    identity: str = ""


def check_name(name: str, what: str = "device id") -> str:
    """Return `name` if it may be part of a topic.

    Raises:
        InvalidTopic: it may not; the sentence says which characters may.
    """
    if not _NAME.fullmatch(name):
        shown = name if len(name) <= 80 else name[:77] + "..."
        raise InvalidTopic(
            f"{shown!r} is no valid {what}: use 1 to 63 lower-case letters, digits and hyphens, "
            "beginning with a letter or digit"
        )
    return name


def check_request(request: str) -> str:
    """Return `request` if it may be part of a topic, or raise InvalidTopic."""
    if not _REQUEST.fullmatch(request):
        shown = request if len(request) <= 80 else request[:77] + "..."
        raise InvalidTopic(f"{shown!r} is no valid request id: use 1 to 64 letters, digits, hyphens and underscores")
    return request


def check_identity(name: str) -> str:
    """Return `name` if it may stand in an enrolment topic: a token's bootstrap identity, or a machine's name.

    Raises:
        InvalidTopic: it is neither.
    """
    return name if _BOOTSTRAP.fullmatch(name) else check_name(name, "identity")


class Topics:
    """Builds the topics below one root, and parses them.

    Raises:
        InvalidTopic: the root is not a plain topic path, or a name may not be part of a topic.
    """

    def __init__(self, root: str = DEFAULT_ROOT) -> None:
        if not _ROOT.fullmatch(root):
            raise InvalidTopic(
                f"{root!r} is no valid topic root: use letters, digits, hyphens and underscores, "
                "with single slashes between levels"
            )
        self.root = root

    def device_state(self, device: str) -> str:
        """Return where a device announces itself (retained, last will)."""
        return f"{self.root}/device/{_wild(device)}/state"

    def session(self, device: str, session: bytes) -> str:
        """Return where a device keeps the context of a session (retained)."""
        if len(session) != ID_BYTES:
            raise InvalidTopic(f"a session id has {ID_BYTES} bytes, not {len(session)}")
        return f"{self.root}/device/{_wild(device)}/session/{session.hex()}"

    def sessions(self, device: str) -> str:
        """Return the filter for all session contexts of a device; `+` for every device."""
        return f"{self.root}/device/{_wild(device)}/session/+"

    def draft(self, device: str, verifier: str) -> str:
        """Return where a device sends its bundles to a verifier; `+` as device for a filter."""
        return f"{self.root}/device/{_wild(device)}/draft/{check_name(verifier, 'verifier id')}"

    def verdict(self, device: str) -> str:
        """Return where verifiers answer a device."""
        return f"{self.root}/device/{_wild(device)}/verdict"

    def verifier_state(self, verifier: str) -> str:
        """Return where a verifier announces itself (retained, last will); `+` for every verifier."""
        return f"{self.root}/verifier/{_wild(verifier, 'verifier id')}/state"

    def ask(self, device: str) -> str:
        """Return where apps ask a device."""
        return f"{self.root}/device/{_wild(device)}/ask"

    def cancel(self, device: str) -> str:
        """Return where apps cancel a request."""
        return f"{self.root}/device/{_wild(device)}/cancel"

    def answer(self, device: str, request: str) -> str:
        """Return where a device answers a request; `+` as request for a filter."""
        return f"{self.root}/device/{_wild(device)}/answer/{request if request == '+' else check_request(request)}"

    def enrol_request(self, identity: str) -> str:
        """Return where an identity asks for a certificate; `+` for every identity."""
        return f"{self.root}/enroll/{identity if identity == '+' else check_identity(identity)}/request"

    def enrol_answer(self, identity: str) -> str:
        """Return where an identity is given its certificate; `+` for every identity."""
        return f"{self.root}/enroll/{identity if identity == '+' else check_identity(identity)}/answer"

    def parse(self, topic: str) -> Topic:
        """Return the family and names of a topic.

        Raises:
            InvalidTopic: the topic is not below this root, is of no family, or a name in it is malformed.
        """
        prefix = self.root + "/"
        if not topic.startswith(prefix):
            raise InvalidTopic(f"topic {topic[:200]!r} is not below the root {self.root!r}")
        match topic.removeprefix(prefix).split("/"):
            case ["device", device, "state"]:
                return Topic(Family.DEVICE_STATE, device=check_name(device))
            case ["device", device, "session", session]:
                return Topic(Family.SESSION, device=check_name(device), session=_session(session))
            case ["device", device, "draft", verifier]:
                return Topic(Family.DRAFT, device=check_name(device), verifier=check_name(verifier, "verifier id"))
            case ["device", device, "verdict"]:
                return Topic(Family.VERDICT, device=check_name(device))
            case ["verifier", verifier, "state"]:
                return Topic(Family.VERIFIER_STATE, verifier=check_name(verifier, "verifier id"))
            case ["device", device, "ask"]:
                return Topic(Family.ASK, device=check_name(device))
            case ["device", device, "cancel"]:
                return Topic(Family.CANCEL, device=check_name(device))
            case ["device", device, "answer", request]:
                return Topic(Family.ANSWER, device=check_name(device), request=check_request(request))
            case levels:
                return _enrolment(levels, topic)


def _wild(name: str, what: str = "device id") -> str:
    return name if name == "+" else check_name(name, what)


def _enrolment(levels: list[str], topic: str) -> Topic:
    match levels:
        case ["enroll", identity, "request"]:
            return Topic(Family.ENROL_REQUEST, identity=check_identity(identity))
        case ["enroll", identity, "answer"]:
            return Topic(Family.ENROL_ANSWER, identity=check_identity(identity))
        case _:
            raise InvalidTopic(f"topic {topic[:200]!r} is of no family that SLED knows")


def _session(text: str) -> bytes:
    if not re.fullmatch(r"[0-9a-f]{16}", text):
        raise InvalidTopic(f"{text[:80]!r} is no session id: it has 16 lower-case hexadecimal digits")
    return bytes.fromhex(text)
