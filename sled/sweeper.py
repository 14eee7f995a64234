"""What an operator may clear away, and when: retained messages that nobody keeps up any more.

A retained message does not say how old it is, so a sweeper has to watch: its clock for a message starts at first sight,
and starts again whenever the message is published anew, or comes with other content. Only this reader's clock counts.
Pure: messages and the time come in, what is to be cleared goes out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

from msgspec import Struct

from schemas import codec
from schemas.errors import UnsupportedVersion, WireError
from schemas.messages import AgentState, SessionContext, VerifierState
from schemas.topics import Family

if TYPE_CHECKING:
    from schemas.topics import Topic, Topics

LEAST_LIFE: Final = 60.0
"""Seconds that everything is left alone, whatever its own time to live: its owner may be restarting."""

Reason = Literal["expired", "offline", "malformed", "foreign"]


class Finding(Struct, frozen=True):
    """A retained message that should not be there.

    Attributes:
        topic: where it is.
        reason: `expired` (a context beyond its time to live), `offline` (the state of a device or verifier that is
            gone), `malformed` (nobody can read it), `foreign` (not of this version of the protocol, or of no part of
            it: never cleared).
        sentence: for people.
        clear: whether it is to be cleared.
    """

    topic: str
    reason: Reason
    sentence: str
    clear: bool

    def describe(self, *, dry_run: bool) -> str:
        """Return a line for people."""
        deed = "left" if not self.clear else "would clear" if dry_run else "cleared"
        return f"{deed} {self.topic}: {self.sentence}"


class _Kept(Struct, frozen=True):
    """A retained message that is watched.

    Attributes:
        since: when it was last published, or first seen.
        life: seconds after which it may go; None for as long as it says the same.
        payload: to tell another content by.
    """

    since: float
    life: float | None
    payload: bytes
    reason: Reason
    sentence: str


class Sweeper:
    """Watches what is retained below one root.

    Args:
        topics: of the root.
        ttl_factor: times to live are multiplied by this.
        offline_after: seconds after which the state of a device that is offline, or of a verifier that announces
            nothing, may go; None leaves all of them.
        malformed: clear what nobody can read, too.
    """

    def __init__(
        self, topics: Topics, *, ttl_factor: float = 1.0, offline_after: float | None = None, malformed: bool = False
    ) -> None:
        self._topics = topics
        self._ttl_factor = ttl_factor
        self._offline_after = offline_after
        self._malformed = malformed
        self._kept: dict[str, _Kept] = {}
        self._reported: set[str] = set()

    def __len__(self) -> int:
        """How many retained messages are watched."""
        return len(self._kept)

    def forget(self) -> None:
        """Begin anew: the connection was lost, and with it the knowledge of what was published meanwhile."""
        self._kept.clear()

    def seen(self, topic: str, payload: bytes, *, retain: bool, now: float) -> None:
        """Take in a message; `retain` as the broker sets it for what was there before the subscription."""
        if not payload:
            self._kept.pop(topic, None)
            self._reported.discard(topic)
            return
        known = self._kept.get(topic)
        if known is not None and retain and known.payload == payload:
            return
        kept = self._judge(topic, payload, now)
        if retain or kept.reason in ("expired", "offline"):
            self._reported.discard(topic)
            self._kept[topic] = kept
        # All else that is just published passes by: drafts, verdicts, asks, answers.

    def due(self, now: float) -> list[Finding]:
        """Return what has become due since the last call; each message once."""
        found = [
            Finding(topic, kept.reason, kept.sentence, self._may_clear(kept.reason))
            for topic, kept in self._kept.items()
            if topic not in self._reported and kept.life is not None and now - kept.since >= kept.life
        ]
        self._reported.update(finding.topic for finding in found)
        return found

    def next_due(self) -> float | None:
        """Return when `due` has something to return, as things stand; None for never."""
        waiting = (kept for topic, kept in self._kept.items() if topic not in self._reported)
        return min((kept.since + kept.life for kept in waiting if kept.life is not None), default=None)

    def _may_clear(self, reason: Reason) -> bool:
        return reason in ("expired", "offline") or (reason == "malformed" and self._malformed)

    def _judge(self, topic: str, payload: bytes, now: float) -> _Kept:
        """Say how long a message may stay."""
        try:
            parsed = self._topics.parse(topic)
        except WireError as error:
            return _Kept(now, 0.0, payload, "foreign", str(error))
        try:
            return self._judge_family(parsed, payload, now)
        except UnsupportedVersion as error:
            return _Kept(now, 0.0, payload, "foreign", str(error))
        except WireError as error:
            return _Kept(now, 0.0, payload, "malformed", str(error))

    def _judge_family(self, topic: Topic, payload: bytes, now: float) -> _Kept:
        match topic.family:
            case Family.SESSION:
                life = max(LEAST_LIFE, codec.decode(payload, SessionContext).ttl / 1e6 * self._ttl_factor)
                sentence = f"device {topic.device} has not refreshed this session for {life:.0f} s"
                return _Kept(now, life, payload, "expired", sentence)
            case Family.DEVICE_STATE:
                offline = codec.decode_state(payload, AgentState).status == "offline"
                return self._state(now, payload, f"device {topic.device} has been offline", gone=offline)
            case Family.VERIFIER_STATE:
                codec.decode_state(payload, VerifierState)  # one that is there says so every few seconds
                return self._state(now, payload, f"verifier {topic.verifier} has announced nothing", gone=True)
            case _:
                return _Kept(now, 0.0, payload, "malformed", "nothing should be retained here")

    def _state(self, now: float, payload: bytes, what: str, *, gone: bool) -> _Kept:
        life = None if self._offline_after is None or not gone else max(LEAST_LIFE, self._offline_after)
        return _Kept(now, life, payload, "offline", f"{what} for {life or 0:.0f} s")
