"""What an app asks, made into a request the agent can work on."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from broker.message import is_topic
from edge_agent.reply import Reply
from edge_agent.spool import Spooled
from schemas.errors import InvalidTopic
from schemas.limits import ID_BYTES, MAX_CONTEXT_TOKENS
from schemas.messages import Sampling, StopRules
from schemas.topics import Family

if TYPE_CHECKING:
    from broker.message import Message
    from edge_agent.tokenizer import ChatTokenizer
    from schemas.messages import Ask
    from schemas.topics import Topics


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


def reply_wanted(message: Message, topics: Topics, device: str) -> Reply:
    """Return where an ask wants its answer besides the answer topic, and what the answer shall carry.

    The device publishes there in its own name, which may reach further than the app's. So a Response Topic below the
    root must be one of the device's answer topics, and one that begins with `$` is the broker's own (MQTT 5, 4.7.2).

    Raises:
        AskError: nothing of ours may be published there.
    """
    topic = message.response_topic
    if topic is None:
        return Reply(correlation=message.correlation)
    below_root = f"{topic}/".startswith(topics.root + "/")
    if not is_topic(topic) or topic.startswith("$") or (below_root and not _is_answer(topic, topics, device)):
        raise AskError(
            "invalid_response_topic",
            f"no answer is published to {topic[:100]!r}: give a response topic without wildcards that does not begin "
            f"with $ and is not below {topics.root!r}, or one that matches {topics.answer(device, '+')!r}",
        )
    return Reply(topic, message.correlation)


def _is_answer(topic: str, topics: Topics, device: str) -> bool:
    try:
        parsed = topics.parse(topic)
    except InvalidTopic:
        return False
    return parsed.family is Family.ANSWER and parsed.device == device


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
