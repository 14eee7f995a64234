"""Which verifier an agent turns to, without a coordinator.

Verifiers announce themselves in retained states. Among those that are online, not draining and made for the agent's
tokenizer and target, an agent takes the one with the highest weighted rendezvous score when a text begins, and keeps it
for the text as long as it serves: every agent comes to its own choice, capacities are filled in proportion, when a
verifier leaves only its own sessions move, and one that joins or comes back gets its part of the next texts
(Schindelhauer and Schomaker 2005: score = -weight / ln(hash)). One that is doubted (see `edge_agent.health`) or
draining is left for another that is neither, and kept where there is none.

How much a verifier can hold depends on its memory. A text may become as long as was asked for, or as the longest
context announced when it begins allows, and from then on only verifiers that can hold all of that serve it: where it
ends must not depend on who verifies it.
"""

from __future__ import annotations

import hashlib
import math
from typing import TYPE_CHECKING, Final, Literal

from msgspec import Struct

from edge_agent.events import Terms
from edge_agent.health import Complaint, Health

if TYPE_CHECKING:
    from schemas.messages import VerifierState

LONGEST_ROUND: Final = 60.0
"""Seconds of announced round time that an agent believes; it waits at least that long before it sends again."""

Reason = Literal["gone", "unfit", "draining"] | Complaint
"""Why a verifier was left: it was away, announced something else than the text needs, drains, or is doubted."""


class Misfit(Struct, frozen=True):
    """Why a device cannot be served: a code for programs and a sentence for people."""

    code: str
    sentence: str


class Length(Struct, frozen=True):
    """How many tokens a text takes.

    Attributes:
        prompt: of them.
        output: at most so many, as asked for or as settled.
        settled: whether the text has begun, so that a verifier must be able to hold all of it.
    """

    prompt: int = 0
    output: int = 0
    settled: bool = False


ANY_LENGTH: Final = Length()


class Placement:
    """The announcements a device has seen, and its choice among them."""

    def __init__(self, device: str, tokenizer: str, target: str = "") -> None:
        """Start with no announcement seen.

        Args:
            device: own id; devices spread over the verifiers by it.
            tokenizer: digest of the device's tokenizer.
            target: name of the only target to use; empty for whichever is announced.
        """
        self._device = device
        self._tokenizer = tokenizer
        self._states: dict[str, VerifierState] = {}
        self._current: str | None = None
        self._wanted = target
        self._kept = target
        self._length = ANY_LENGTH
        self._numerics = ""
        self._unconfirmed: set[str] = set()
        self.health = Health()

    @property
    def current(self) -> str | None:
        """The verifier picked last, or None."""
        return self._current

    def announce(self, verifier: str, state: VerifierState | None, now: float) -> None:
        """Take in a verifier's state, at a time in seconds; None if its announcement was cleared."""
        self._unconfirmed.discard(verifier)
        if state is None:
            self._states.pop(verifier, None)
            self.health.forget(verifier)
        else:
            self._states[verifier] = state
            self.health.heard(verifier, state.boot, state.heartbeat, now)

    def begin(self, target: str = "", length: Length = ANY_LENGTH, numerics: str = "") -> None:
        """Choose anew, for another text; one that was begun before is its target's, and rather of the same numerics."""
        self._current, self._numerics = None, numerics
        self.keep(target, length)

    def keep(self, target: str, length: Length = ANY_LENGTH) -> None:
        """Use only this target, and verifiers that can hold so much: a text that one began is not another's to end."""
        self._kept = self._wanted or target
        self._length = length

    def doubt(self, now: float) -> None:
        """The connection was away until now: what was announced before counts only if it is announced again."""
        self._unconfirmed = set(self._states)
        self.health.listen_anew(now)

    def drop_doubtful(self) -> None:
        """Forget the verifiers that have not announced themselves again: their last will was missed."""
        for verifier in self._unconfirmed:
            del self._states[verifier]
            self.health.forget(verifier)
        self._unconfirmed = set()

    def pick(self, now: float, in_use: str = "") -> Terms | None:
        """Return the terms of the verifier to use now, or None while there is none.

        Args:
            now: in seconds.
            in_use: the verifier that serves the text at the moment. Where another one was picked, and is gone before
                the text has turned to it, this one is kept though it drains.
        """
        serving = {name: state for name, state in self._states.items() if self._serves(state)}
        needed = self._needed(list(serving.values()))
        candidates = [name for name, state in serving.items() if state.context_length >= needed]
        current = self._current if self._current in candidates else None
        if current is None or self._reluctant(current, now):
            willing = [name for name in candidates if not self._reluctant(name, now)]
            able = [name for name in willing if not self._full(name)]
            if not able and not (current is not None and self._as_good_as_full(current, now)):
                able = willing
            if current is None or able:
                # One that drains takes nothing new, however long it is doubted who else there is.
                left = able or [name for name in candidates if not self._states[name].draining]
                equal = [name for name in left if self._states[name].numerics == self._numerics]
                current = max(equal or left, key=self._score, default=in_use if in_use in candidates else None)
        self._current = current
        if current is None:
            return None
        state = self._states[current]
        self._numerics = state.numerics
        return _terms(current, state)

    def answers(self, verifier: str, now: float) -> bool:
        """Whether a verifier that was left will answer what it was sent: it drains, and nothing else is amiss."""
        state = self._states.get(verifier)
        return state is not None and self._serves(state) and state.draining and not self.health.doubtful(verifier, now)

    def reason(self, left: str, now: float) -> Reason:
        """Say why a verifier has just been left for another; `now` is in seconds."""
        state = self._states.get(left)
        if state is None or state.status != "online":
            return "gone"
        whole = self._length.prompt + self._length.output
        if not self._serves(state) or (self._length.settled and state.context_length < whole):
            return "unfit"
        return "draining" if state.draining else self.health.complaint(left, now) or "gone"

    def misfit(self) -> Misfit | None:
        """Say why no announced verifier will ever do, or None if one may or none has announced itself.

        A text that waits for the target that began it only waits: that one may come back.
        """
        online = [(name, self._states[name]) for name in sorted(self._states) if self._states[name].status == "online"]
        alike = [(name, state) for name, state in online if state.tokenizer == self._tokenizer]
        if not online or any(self._wanted in ("", state.target) for _, state in alike):
            return None
        if alike:
            name, state = alike[0]
            return Misfit(
                "target_mismatch",
                f"the device is set up for target {self._wanted!r}, but verifier {name!r} serves {state.target!r}: "
                "start a verifier for that target, or set the device up for this one",
            )
        name, state = online[0]
        return Misfit(
            "tokenizer_mismatch",
            f"the device's tokenizer ({self._tokenizer}) is not that of verifier {name!r} ({state.tokenizer}, target "
            f"{state.target!r}): set the device up with a drafter and tokenizer for that target",
        )

    def _serves(self, state: VerifierState) -> bool:
        return state.status == "online" and state.vocab_size > 0 and self._fits(state)

    def _needed(self, serving: list[VerifierState]) -> int:
        """Return the shortest context, in tokens, that will do.

        A text that has not begun takes the longest there is, if none is as long as was asked for. If not even its
        prompt fits, the longest will do to say so.
        """
        prompt, whole = self._length.prompt, self._length.prompt + self._length.output
        if self._length.settled:
            return whole
        able = [state for state in serving if state.context_length > prompt] or serving
        takers = [state for state in able if not state.draining] or able
        return min(whole, max((state.context_length for state in takers), default=0))

    def _reluctant(self, verifier: str, now: float) -> bool:
        """Whether another verifier would be better."""
        return self._states[verifier].draining or self.health.doubtful(verifier, now)

    def _full(self, verifier: str) -> bool:
        """Whether it serves as many sessions as it can, as far as it has announced."""
        state = self._states[verifier]
        return 0 < state.capacity <= state.load

    def _as_good_as_full(self, verifier: str, now: float) -> bool:
        """Whether a verifier is left for none that is full: it drains but still serves, or refuses work as well."""
        return self.answers(verifier, now) or self.health.complaint(verifier, now) == "busy"

    def _fits(self, state: VerifierState) -> bool:
        return state.tokenizer == self._tokenizer and self._kept in ("", state.target)

    def _score(self, verifier: str) -> float:
        word = hashlib.blake2b(f"{self._device}/{verifier}".encode(), digest_size=8).digest()
        uniform = ((int.from_bytes(word, "big") >> 11) + 0.5) / 2**53  # never rounds to 1, whose logarithm is 0
        return -max(1, self._states[verifier].capacity) / math.log(uniform)


def _terms(verifier: str, state: VerifierState) -> Terms:
    return Terms(
        verifier,
        state.boot,
        state.vocab_size,
        state.context_length,
        frozenset(state.end_tokens),
        min(state.round_time / 1e6, LONGEST_ROUND),
        state.target,
        state.numerics,
    )
