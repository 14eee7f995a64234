"""What an app asks, made into a request the agent can work on."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from edge_agent.spool import Spooled
from schemas.limits import ID_BYTES, MAX_CONTEXT_TOKENS
from schemas.messages import Sampling, StopRules

if TYPE_CHECKING:
    from edge_agent.tokenizer import ChatTokenizer
    from schemas.messages import Ask


class AskError(ValueError):
    """An ask that cannot be served, in words for the person who asked.

    Attributes:
        code: for programs.
    """

    def __init__(self, code: str, sentence: str) -> None:
        super().__init__(sentence)
        self.code = code


def new_request_id() -> str:
    """Return an id for a request that came without one."""
    return secrets.token_hex(6)


def spooled(ask: Ask, request: str, tokenizer: ChatTokenizer, digest: str, *, max_tokens: int) -> Spooled:
    """Return an ask with its prompt as token ids, a session id of its own and every choice made.

    Args:
        ask: as decoded.
        request: its id, or the one drawn for it.
        tokenizer: the target's.
        digest: of that tokenizer.
        max_tokens: length of the answer if the ask leaves it open.

    Raises:
        AskError: the conversation cannot be encoded, or is longer than any session may be.
    """
    messages = [{"role": message.role, "content": message.content} for message in ask.messages]
    if ask.prompt is not None:
        messages = [{"role": "user", "content": ask.prompt}]
    try:
        prompt = tuple(tokenizer.encode_chat(messages))
    except ValueError as error:
        raise AskError("invalid_prompt", str(error)) from error
    if len(prompt) >= MAX_CONTEXT_TOKENS:
        raise AskError(
            "prompt_too_long",
            f"the prompt has {len(prompt)} tokens, but a session has at most {MAX_CONTEXT_TOKENS}: shorten it",
        )
    seed = ask.seed
    if seed is None:
        seed = secrets.randbits(63) if ask.temperature > 0 else 0
    return Spooled(
        request,
        secrets.token_bytes(ID_BYTES),
        prompt,
        min(ask.max_tokens or max_tokens, MAX_CONTEXT_TOKENS - len(prompt)),
        digest,
        Sampling(ask.temperature, ask.top_k, ask.top_p, seed),
        StopRules(ignore_end=ask.ignore_end),
        ask.stop,
        ask.revise,
    )
