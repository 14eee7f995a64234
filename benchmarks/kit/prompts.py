"""What is asked: the prompts of a file, or some of our own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from benchmarks.kit.error import BenchError

if TYPE_CHECKING:
    from pathlib import Path


class Prompt(msgspec.Struct, frozen=True):
    """One prompt. It is also one line of a prompts file, whose other fields are left alone.

    Attributes:
        prompt: what the user says.
        source: where the prompt is from; results are also given for each source. May be empty.
    """

    prompt: str
    source: str = ""


BUILT_IN: Final = (
    Prompt("A baker sells 14 loaves in the morning and twice as many in the afternoon. How many is that?", "math"),
    Prompt("Explain in a few sentences why the sky is blue.", "explain"),
    Prompt("Write a short letter to a neighbour whose dog barks at night.", "write"),
    Prompt("Tom has 45 marbles, gives 12 to Ann and loses a third of the rest. How many are left?", "math"),
    Prompt("Name five things to do on a rainy day, and say why each is fun.", "write"),
    Prompt("What is the difference between a virus and a bacterium?", "explain"),
    Prompt("A train covers 180 km in 2 hours and 15 minutes. What is its speed in km/h?", "math"),
    Prompt("Rewrite this politely: send me the report now, you are late again.", "write"),
)
"""Asked where no file is given."""

WARM_UP: Final = (
    Prompt("Tell me how bread is made, and why the dough rises."),
    Prompt("A box holds 12 eggs. How many eggs are in 7 boxes, and how many are left when 30 are eaten?"),
    Prompt("Describe a walk through a small town in the rain."),
    Prompt("Which planets have rings, and what are these made of?"),
    Prompt("Give me three reasons to learn to play an instrument."),
    Prompt("Summarise the story of Robinson Crusoe in four sentences."),
)
"""Asked before anything is measured; none of them is ever measured."""


def warm_up(count: int) -> list[Prompt]:
    """Return so many prompts to begin with, again from the first when they run out."""
    return [WARM_UP[number % len(WARM_UP)] for number in range(count)]


def prompts_of(path: Path | None, limit: int | None) -> list[Prompt]:
    """Return the first `limit` prompts of a file, or of the built-in ones without one.

    Raises:
        BenchError: see `read_prompts`.
    """
    return list(BUILT_IN[:limit]) if path is None else read_prompts(path, limit)


def read_prompts(path: Path, limit: int | None) -> list[Prompt]:
    """Return the first `limit` prompts of a JSON Lines file, or all.

    Raises:
        BenchError: the file cannot be read, has no prompts, or a line has none.
    """
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise BenchError(f"{path} cannot be read ({error.strerror}): give --prompts a JSON Lines file") from error
    prompts: list[Prompt] = []
    for number, line in enumerate(lines, 1):
        if limit is not None and len(prompts) >= limit:
            break
        if not line.strip():
            continue
        try:
            prompts.append(msgspec.json.decode(line, type=Prompt))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise BenchError(
                f'line {number} of {path} is no JSON object with a "prompt" ({error}): mend or remove it'
            ) from error
    if not prompts:
        raise BenchError(f'{path} holds no prompts: each line is a JSON object with a "prompt"')
    return prompts
