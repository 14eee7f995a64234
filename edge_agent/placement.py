"""Which verifier an agent turns to, without a coordinator.

Verifiers announce themselves in retained states. Among those that are online, not draining and made for the agent's
tokenizer, an agent takes the one with the highest weighted rendezvous score, and keeps it as long as it serves: every
agent comes to its own choice, capacities are filled in proportion, and when a verifier leaves only its own sessions
move (Schindelhauer and Schomaker 2005: score = -weight / ln(hash)).
"""

from __future__ import annotations

import hashlib
import math
from typing import TYPE_CHECKING, Final

from edge_agent.events import Terms

if TYPE_CHECKING:
    from schemas.messages import VerifierState

LONGEST_ROUND: Final = 60.0
"""Seconds of announced round time that an agent believes; it waits at least that long before it sends again."""


class Placement:
    """The announcements a device has seen, and its choice among them."""

    def __init__(self, device: str, tokenizer: str) -> None:
        """Start with no announcement seen.

        Args:
            device: own id; devices spread over the verifiers by it.
            tokenizer: digest of the device's tokenizer.
        """
        self._device = device
        self._tokenizer = tokenizer
        self._states: dict[str, VerifierState] = {}
        self._current: str | None = None

    def announce(self, verifier: str, state: VerifierState | None) -> None:
        """Take in a verifier's state; None if its announcement was cleared."""
        if state is None:
            self._states.pop(verifier, None)
        else:
            self._states[verifier] = state

    def pick(self) -> Terms | None:
        """Return the terms of the verifier to use now, or None while there is none."""
        if self._current is None or not self._serves(self._states.get(self._current)):
            candidates = [name for name, state in self._states.items() if self._serves(state)]
            self._current = max(candidates, key=self._score, default=None)
        return None if self._current is None else _terms(self._current, self._states[self._current])

    def misfit(self) -> str | None:
        """Say why no announced verifier will do, or None if one does or none has announced itself."""
        online = {name: state for name, state in self._states.items() if state.status == "online"}
        if not online or any(state.tokenizer == self._tokenizer for state in online.values()):
            return None
        name, state = min(online.items())
        return (
            f"the device's tokenizer ({self._tokenizer}) is not that of verifier {name!r} ({state.tokenizer}, target "
            f"{state.target!r}): set the device up with a drafter and tokenizer for that target"
        )

    def _serves(self, state: VerifierState | None) -> bool:
        return (
            state is not None
            and state.status == "online"
            and not state.draining
            and state.tokenizer == self._tokenizer
            and state.vocab_size > 0
        )

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
    )
