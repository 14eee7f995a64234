"""Reading a batching policy from the command line."""

from __future__ import annotations

from typing import TYPE_CHECKING

from verifier.gathering import DYNAMIC_WAIT, STATIC_WAIT, Dynamic, Static
from verifier.scheduler import STEP_TOKENS, Continuous

if TYPE_CHECKING:
    from verifier.scheduler import Batching


def parse_batching(text: str) -> Batching:
    """Read `continuous`, `continuous:TOKENS`, `static:BATCH`, `static:BATCH:WAIT_MS`, or `dynamic` like `static`.

    Raises:
        ValueError: the text is none of these; the message quotes it and shows what is possible.
    """
    kind, *values = text.strip().split(":")
    match kind, values:
        case "continuous", ([] | [_]):
            return Continuous(_whole(values[0], text) if values else STEP_TOKENS)
        case "static", ([_] | [_, _]):
            return Static(_whole(values[0], text), _wait(values[1:], text, STATIC_WAIT))
        case "dynamic", ([_] | [_, _]):
            return Dynamic(_whole(values[0], text), _wait(values[1:], text, DYNAMIC_WAIT))
        case _:
            raise ValueError(
                f"The batching policy {text!r} is not known; write continuous, continuous:TOKENS (continuous:512), "
                "static:BATCH or static:BATCH:MILLISECONDS (static:16:500), dynamic:SIZE or dynamic:SIZE:MILLISECONDS "
                "(dynamic:8:50)."
            )


def _whole(value: str, policy: str) -> int:
    try:
        return int(value)
    except ValueError:
        raise ValueError(
            f"In the batching policy {policy!r}, {value!r} should be a whole number, as in static:16."
        ) from None


def _wait(values: list[str], policy: str, otherwise: float) -> float:
    """Return seconds."""
    if not values:
        return otherwise
    try:
        return float(values[0]) / 1e3
    except ValueError:
        raise ValueError(
            f"In the batching policy {policy!r}, {values[0]!r} should be a number of milliseconds, as in static:16:500."
        ) from None
