"""How long answers took, as the one who asked sees it."""

from __future__ import annotations

import time

import msgspec


class Timing(msgspec.Struct, frozen=True):
    """Of one answer, or of many added up. Times are in seconds from the asking, reading the prompt included.

    Attributes:
        tokens: of the answer.
        seconds: until it was complete.
        first_tokens: tokens that came first, together.
        first_seconds: until they came.
        answers: how many are added up here.
    """

    tokens: int = 0
    seconds: float = 0.0
    first_tokens: int = 0
    first_seconds: float = 0.0
    answers: int = 0

    def __add__(self, other: Timing) -> Timing:
        """Return both added up."""
        return Timing(*(getattr(self, name) + getattr(other, name) for name in self.__struct_fields__))

    @property
    def rate(self) -> float:
        """Tokens per second of whole answers, from the asking to the last token; 0 where there is nothing."""
        return self.tokens / self.seconds if self.seconds else 0.0

    @property
    def decode_rate(self) -> float:
        """Tokens per second after the first ones; 0 where there is nothing."""
        seconds = self.seconds - self.first_seconds
        return (self.tokens - self.first_tokens) / seconds if seconds > 0 else 0.0

    @property
    def ttft(self) -> float:
        """Mean time to the first token, in seconds."""
        return self.first_seconds / self.answers if self.answers else 0.0


class Stopwatch:
    """Times one answer; made when it is asked for."""

    def __init__(self) -> None:
        self._began = time.perf_counter()
        self._tokens = self._first_tokens = 0
        self._first_seconds = 0.0

    def saw(self, tokens: int) -> None:
        """Note so many further tokens of the answer, come just now."""
        if tokens and not self._tokens:
            self._first_tokens, self._first_seconds = tokens, time.perf_counter() - self._began
        self._tokens += tokens

    def stop(self) -> Timing:
        """Return what was seen; now the answer is complete."""
        seconds = time.perf_counter() - self._began
        return Timing(self._tokens, seconds, self._first_tokens, self._first_seconds, answers=1)
