"""The thread that runs the engine: one step at a time, and nothing else."""

from __future__ import annotations

import logging
import queue
import threading
import time
from typing import TYPE_CHECKING

from msgspec import Struct

from verifier.engine.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Callable

    from verifier.engine.engine import Engine
    from verifier.engine.segment import Segment

_log = logging.getLogger(__name__)


class StepResult(Struct, frozen=True):
    """What became of a step.

    Attributes:
        chosen: for each segment its chosen token ids, or the sentence of its failure.
        seconds: how long the step took.
    """

    chosen: list[list[int] | str]
    seconds: float


class SteppingThread:
    """Keeps the engine's time away from the loop that takes messages in.

    The engine is the loop's while no step runs, and this thread's while one does.

    Args:
        engine: the target.
        answer: called on this thread with the result of each step, or None for a heartbeat; must only enqueue.
    """

    def __init__(self, engine: Engine, answer: Callable[[StepResult | None], None]) -> None:
        self._engine = engine
        self._answer = answer
        self._wishes: queue.SimpleQueue[list[Segment] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self, timeout: float = 10.0) -> None:
        """End the thread after the step it is at."""
        self._wishes.put(None)
        self._thread.join(timeout)

    def step(self, segments: list[Segment]) -> None:
        """Run a step; an empty one only shows that the thread is alive."""
        self._wishes.put(segments)

    def _run(self) -> None:
        while (segments := self._wishes.get()) is not None:
            if not segments:
                self._answer(None)
                continue
            began = time.perf_counter()
            chosen = self._try(segments)
            self._answer(StepResult(chosen, time.perf_counter() - began))

    def _try(self, segments: list[Segment]) -> list[list[int] | str]:
        """Run all segments at once; if that fails, each alone, so that one session's trouble stays its own."""
        try:
            return list(self._engine.step(segments))
        except Exception as error:  # noqa: BLE001 -- whatever the model raises, the service goes on
            if len(segments) == 1:
                if isinstance(error, EngineError):
                    _log.error("a step failed: %s", error)
                else:
                    _log.exception("a step failed")
                return [f"the target model failed on this session: {error}"[:1000]]
            _log.warning("a step of %d sessions failed (%s); running each alone", len(segments), error)
        return [result for segment in segments for result in self._try([segment])]
