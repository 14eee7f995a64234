"""Training text out of the target itself: prompts it thinks up, and its greedy answers, many at once."""

from __future__ import annotations

import random
import struct
from collections import deque
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from models.distill.texts import Text
from models.error import ModelError
from schemas.messages import GREEDY, Sampling
from verifier.engine.segment import Segment

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from tokenizers import Tokenizer

    from edge_agent.tokenizer import ChatTokenizer
    from models.distill.texts import Answer, Prompt
    from verifier.engine.engine import Engine

LONGEST_ANSWER = 160
"""Tokens of an answer that are trained on: later ones mostly repeat, so they teach less than other answers."""

_LONGEST_QUESTION = 48
_WORTH_KEEPING = 16


class Start(msgspec.Struct, frozen=True):
    """A beginning that is to be continued.

    Attributes:
        tokens: its ids, not empty.
        limit: how many more at most.
        sampling: how they are chosen.
        source: where the prompt is from.
    """

    tokens: tuple[int, ...]
    limit: int
    sampling: Sampling = GREEDY
    source: str = ""


def write(
    engine: Engine, starts: Iterable[Start], *, batch: int, stop: Callable[[], bool] = lambda: False
) -> Iterator[tuple[Start, list[int]]]:
    """Yield each beginning with what the target wrote after it, its end token included, as they are finished.

    Args:
        engine: the target's.
        starts: beginnings; those as long as the target's context are passed over.
        batch: how many are written at a time; a new one takes the place of a finished one at once.
        stop: asked before each step once there is something worth keeping: a whole answer, or the beginning of one.
            When it is true, what is half written is yielded as it is.
    """
    waiting = iter(starts)
    live: deque[tuple[bytes, Start, list[int]]] = deque()
    number = 0
    whole = False
    while True:
        while len(live) < batch and (start := next(waiting, None)) is not None:
            if len(start.tokens) < engine.context_length:
                live.append((struct.pack(">Q", number), start, []))
                number += 1
        if live and (whole or len(live[0][2]) >= _WORTH_KEEPING) and stop():
            yield from ((start, written) for _, start, written in live if written)
            for session, _, _ in live:
                engine.release(session)
            return
        if not live:
            return
        chosen = engine.step(
            [
                Segment(session, [*start.tokens, *written], 1, start.sampling, len(written))
                for session, start, written in live
            ]
        )
        for (token,) in chosen:
            session, start, written = live.popleft()
            written.append(token)
            room = engine.context_length - len(start.tokens) - len(written)
            if token in engine.end_tokens or len(written) >= start.limit or room < 1:
                engine.release(session)
                whole = True
                yield start, written
            else:
                live.append((session, start, written))


def think_up_prompts(
    engine: Engine, tokenizer: ChatTokenizer, *, seed: int, batch: int, longest: int = _LONGEST_QUESTION
) -> Iterator[tuple[int, ...]]:
    """Yield prompts without end, as ids: what the target would say in the user's turn, and the template around it.

    Whatever chat template there is, conversations differ from where the user's words begin; the target is let loose
    there with temperature 1, and its first line is put to it as a question.
    """
    head = question_head(tokenizer, engine.end_tokens)
    numbers = random.Random(seed)  # noqa: S311 - reproducible, not secret

    def starts() -> Iterator[Start]:
        while True:
            yield Start(head, longest, Sampling(temperature=1.0, seed=numbers.getrandbits(63)))

    for _, written in write(engine, starts(), batch=batch):
        text = tokenizer.decode([token for token in written if token not in engine.end_tokens]).strip()
        if text:
            yield tuple(tokenizer.encode_chat([{"role": "user", "content": text}]))


def question_head(tokenizer: ChatTokenizer, end_tokens: Iterable[int]) -> tuple[int, ...]:
    """Return the ids that every conversation begins with; an end token where there are none, as base models expect."""
    one, other = (tokenizer.encode_chat([{"role": "user", "content": text}]) for text in ("apple", "7 ships"))
    length = next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    return tuple(one[:length]) or tuple(sorted(end_tokens)[:1]) or (0,)


def ids_of(prompt: Prompt, tokenizer: ChatTokenizer) -> list[int]:
    """Return the ids of a prompt with the chat template around it.

    Raises:
        ModelError: it cannot be put to the target.
    """
    try:
        ids = tokenizer.encode_chat([{"role": "user", "content": prompt.prompt}])
    except ValueError as error:
        raise ModelError(
            f"The prompt {prompt.id!r} cannot be put to the target ({error}); remove or change it."
        ) from error
    if not ids:
        raise ModelError(
            f"The prompt {prompt.id!r} holds nothing that the target's tokenizer knows; remove or change it."
        )
    return ids


def texts_of(
    prompts: Sequence[Prompt],
    answers: Sequence[Answer],
    tokenizer: ChatTokenizer,
    continuation: Tokenizer,
    *,
    end_token: int | None,
    vocab_size: int,
    longest: int = LONGEST_ANSWER,
) -> list[Text]:
    """Turn answers that were written earlier into ids; answers without their prompt, and empty ones, are left out.

    Args:
        prompts: of the answers.
        answers: the target's own.
        tokenizer: the target's, for the prompts.
        continuation: the same one's backend, which can leave out what frames a whole text.
        end_token: what the target ended a finished answer with; None to leave it out.
        vocab_size: the target's.
        longest: of an answer, in tokens.

    Raises:
        ModelError: no answer fits a prompt, or the tokenizer is not of this target.
    """
    asked = {prompt.id: prompt for prompt in prompts}
    texts: list[Text] = []
    for answer in answers:
        prompt = asked.get(answer.id)
        if prompt is None or not answer.answer.strip():
            continue
        ids = ids_of(prompt, tokenizer)
        written = continuation.encode(answer.answer, add_special_tokens=False).ids
        if answer.finished and end_token is not None:
            written.append(end_token)
        texts.append(Text(np.asarray([*ids, *written[:longest]], np.int32), len(ids), prompt.source))
    if not texts:
        raise ModelError("No answer has the id of one of the prompts; give the file of prompts that was answered.")
    if (highest := max(int(text.ids.max()) for text in texts)) >= vocab_size:
        raise ModelError(
            f"The tokenizer yields the id {highest}, but the target has only {vocab_size} tokens; "
            "the tokenizer in its folder belongs to another model."
        )
    return texts
