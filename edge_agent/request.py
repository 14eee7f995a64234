"""What a session is asked for, and whether a verifier can serve it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct

from schemas.messages import VERSION, Epoch, ReleasedRange, Sampling, SessionContext, StopRules

if TYPE_CHECKING:
    from edge_agent.events import Terms


class Unservable(Struct, frozen=True):
    """Why a request can never be served: a code for programs, a sentence for people."""

    code: str
    sentence: str


class Request(Struct, frozen=True):
    """What a session is asked for.

    Attributes:
        session: eight random bytes.
        prompt: token ids, chat template applied.
        max_tokens: the output ends at this many tokens.
        tokenizer: digest of the tokenizer that made `prompt`.
    """

    session: bytes
    prompt: tuple[int, ...]
    max_tokens: int
    tokenizer: str
    sampling: Sampling = Sampling()
    stop: StopRules = StopRules()

    def unservable(self, terms: Terms) -> Unservable | None:
        """Say why a verifier can never serve the request, or None if it can."""
        if not self.prompt:
            return Unservable("empty_prompt", "the prompt has no tokens: ask something")
        if self.room(terms) < 1:
            return Unservable(
                "prompt_too_long",
                f"the prompt has {len(self.prompt)} tokens, but verifier {terms.verifier!r} takes "
                f"{terms.context_length} for prompt and answer together: shorten it",
            )
        unknown = [token for token in self.prompt if not 0 <= token < terms.vocab_size]
        if unknown:
            return Unservable(
                "token_out_of_vocabulary",
                f"the prompt holds token {unknown[0]}, but the target of verifier {terms.verifier!r} knows only ids "
                f"below {terms.vocab_size}: the device's tokenizer is not the target's",
            )
        return None

    def room(self, terms: Terms) -> int:
        """Return how many tokens the output may have with a verifier."""
        return min(self.max_tokens, terms.context_length - len(self.prompt))

    def context(
        self,
        epoch: Epoch,
        revision: int,
        owner: str,
        committed: tuple[int, ...],
        max_tokens: int,
        released: tuple[ReleasedRange, ...],
        successor: str | None = None,
    ) -> SessionContext:
        """Return the word on the session that verifiers read."""
        return SessionContext(
            VERSION,
            "context",
            self.session,
            epoch,
            revision,
            owner,
            self.tokenizer,
            self.prompt,
            committed,
            max_tokens,
            self.sampling,
            self.stop,
            released,
            successor=successor,
        )
