"""A conversation in the target's chat template, told again in the drafter's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edge_agent.drafters.vocabulary import Vocabulary
    from edge_agent.tokenizer import ChatTokenizer

_MARKS = ("\ue000system\ue001", "\ue000first\ue001", "\ue000answer\ue001", "\ue000second\ue001")
"""Messages by which the words of a template around them are found; letters that nobody writes."""


class _Phrases(Struct, frozen=True):
    """What a chat template writes around messages.

    Attributes:
        plain: before the first message of the user, where no system message is given (a default one included).
        system: before a system message, and between it and the first of the user; None if it takes none.
        answer: between a message of the user and the assistant's.
        turn: between a message of the assistant and the user's.
        ask: after the last message, to ask for the assistant's next.
    """

    plain: str
    system: tuple[str, str] | None
    answer: str
    turn: str
    ask: str


class ChatPrompt:
    """Recognises a prompt of the target's chat template and encodes its messages with the drafter's.

    The template's own words are found by rendering a conversation of known messages. A prompt counts as recognised only
    if the messages taken out of it give the very same tokens again, so whatever they hold, no harm is done.

    Args:
        target: the target's tokenizer.
        vocabulary: what its tokens spell.
        own: the drafter's tokenizer.
    """

    def __init__(self, target: ChatTokenizer, vocabulary: Vocabulary, own: ChatTokenizer) -> None:
        self._target = target
        self._vocabulary = vocabulary
        self._own = own
        self._phrases = self._find_phrases() if _has_template(target) and _has_template(own) else None

    def retold(self, prompt: Sequence[int]) -> list[int] | None:
        """Return the drafter's prompt for the same conversation; None if `prompt` is not of the target's template."""
        if self._phrases is None:
            return None
        messages = _messages(self._written(prompt), self._phrases)
        if messages is None:
            return None
        try:
            known = self._target.encode_chat(messages) == list(prompt)
            return self._own.encode_chat(messages) if known else None
        except ValueError:  # one of the templates refuses it
            return None

    def _written(self, tokens: Sequence[int]) -> str:
        """Return a text with its special tokens as they are written."""
        specials = self._vocabulary.specials
        pieces = (self._vocabulary.piece(token) or specials.get(token, "").encode() for token in tokens)
        return b"".join(pieces).decode("utf-8", "replace")

    def _find_phrases(self) -> _Phrases | None:
        system, first, answer, second = _MARKS
        plain = self._around([("user", first), ("assistant", answer), ("user", second)])
        if plain is None:
            return None
        with_system = self._around([("system", system), ("user", first)])
        return _Phrases(plain[0], None if with_system is None else (with_system[0], with_system[1]), *plain[1:])

    def _around(self, conversation: Sequence[tuple[str, str]]) -> list[str] | None:
        """Return what is written before, between and after some messages; None if they are not all there, in order."""
        try:
            rest = self._written(
                self._target.encode_chat([{"role": role, "content": content} for role, content in conversation])
            )
        except ValueError:
            return None
        around = []
        for _, content in conversation:
            before, found, rest = rest.partition(content)
            if not found:
                return None
            around.append(before)
        return [*around, rest]


def _messages(text: str, phrases: _Phrases) -> list[dict[str, str]] | None:
    """Take a prompt apart; None if it is not put together so."""
    messages: list[dict[str, str]] = []
    if phrases.ask and not text.endswith(phrases.ask):
        return None
    text = text[: len(text) - len(phrases.ask)]
    if text.startswith(phrases.plain):
        text = text.removeprefix(phrases.plain)
    elif phrases.system is not None and text.startswith(phrases.system[0]):
        content, found, text = text.removeprefix(phrases.system[0]).partition(phrases.system[1])
        if not found:
            return None
        messages.append({"role": "system", "content": content})
    else:
        return None
    if not (phrases.answer and phrases.turn):
        return None
    asked, *others = text.split(phrases.answer)
    messages.append({"role": "user", "content": asked})
    for other in others:
        answered, found, asked = other.partition(phrases.turn)
        if not found:
            return None
        messages += [{"role": "assistant", "content": answered}, {"role": "user", "content": asked}]
    return messages


def _has_template(tokenizer: ChatTokenizer) -> bool:
    """Say whether there is one; without, a conversation is the text of its last message."""
    return tokenizer.encode_chat([{"role": "user", "content": "a"}]) != tokenizer.encode_text("a")
