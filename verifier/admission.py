"""Which sessions a verifier can serve at all, and in what words it declines the others."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct

from schemas.messages import Epoch, RefusalCode, SessionContext

if TYPE_CHECKING:
    from collections.abc import Iterable


class Target(Struct, frozen=True):
    """What must be known of the target model to say whether it can serve a session.

    Attributes:
        tokenizer: digest of its tokenizer.
        vocab_size: token ids are below it.
        context_length: prompt and output tokens together.
        end_tokens: ids with which it ends a text.
    """

    tokenizer: str
    vocab_size: int
    context_length: int
    end_tokens: frozenset[int]


class Declined(Struct, frozen=True):
    """Why a session is not served: a code for programs, a sentence for people.

    Attributes:
        session: its id.
        epoch: of its context.
        revision: likewise.
        retry_after: microseconds after which trying again may help, where it may; 0 leaves it to the rule.
    """

    session: bytes
    epoch: Epoch
    revision: int
    code: RefusalCode
    sentence: str
    retry_after: int = 0


def decline(context: SessionContext, code: RefusalCode, sentence: str, retry_after: int = 0) -> Declined:
    """Decline the session of a context."""
    return Declined(context.session, context.epoch, context.revision, code, sentence, retry_after)


def unservable(context: SessionContext, target: Target) -> Declined | None:
    """Say what is wrong with a session that no later bundle can put right, or None if nothing is."""
    if context.tokenizer != target.tokenizer:
        return decline(
            context,
            "tokenizer_mismatch",
            f"the device's tokenizer ({context.tokenizer}) is not the target's ({target.tokenizer}): "
            "set the device up with the tokenizer of this target",
        )
    if not context.prompt:
        return decline(context, "empty_prompt", "the prompt has no tokens: ask something")
    if len(context.prompt) + context.max_tokens > target.context_length:
        return decline(
            context,
            "prompt_too_long",
            f"a prompt of {len(context.prompt)} tokens and an answer of {context.max_tokens} do not fit the "
            f"target's context of {target.context_length} tokens: shorten the prompt or ask for fewer tokens",
        )
    foreign = out_of_vocabulary((*context.prompt, *context.committed), target)
    if foreign is not None:
        return decline(context, "token_out_of_vocabulary", foreign)
    return None


def out_of_vocabulary(tokens: Iterable[int], target: Target) -> str | None:
    """Return a sentence about the first token that the target does not know, or None if it knows them all."""
    for token in tokens:
        if token >= target.vocab_size:
            return (
                f"token {token} is not in the target's vocabulary of {target.vocab_size}: "
                "the drafter or its tokenizer is not the target's"
            )
    return None
