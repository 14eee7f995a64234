"""A verifier in a process of its own, whose engine counts what it does."""

from __future__ import annotations

import multiprocessing
import threading
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Self

from transformers.utils.logging import disable_progress_bar

from verifier.batching import parse_batching
from verifier.engine.aside import aside
from verifier.engine.checkpoint import DType, load_model
from verifier.engine.packed import PackedEngine
from verifier.engine.segment import Segment
from verifier.numerics import numerics_fingerprint
from verifier.service import Verifier, VerifierOptions
from verifier.tokenizer import target_tokenizer

if TYPE_CHECKING:
    from collections.abc import Sequence
    from multiprocessing.connection import Connection
    from pathlib import Path
    from types import TracebackType

    from broker.address import BrokerAddress


@dataclass(frozen=True, slots=True)
class Work:
    """What the engine has done: steps with bundles, the bundles in them, and the tokens fed, padding included."""

    steps: int = 0
    bundles: int = 0
    fed: int = 0

    def since(self, earlier: Work) -> Work:
        """Return what was done after `earlier`."""
        return Work(self.steps - earlier.steps, self.bundles - earlier.bundles, self.fed - earlier.fed)


@dataclass(frozen=True, slots=True)
class _Write:
    """Have the target alone write the outputs of these prompts, greedily."""

    prompts: list[list[int]]
    tokens: int


@dataclass(frozen=True, slots=True)
class _Serve:
    """Run a verifier with this batching policy until told otherwise."""

    batching: str
    address: BrokerAddress


_Command = _Write | _Serve | str
"""`count` asks for the work done, `stop` ends the verifier, `end` the process."""


class CountingEngine(PackedEngine):
    """The packed engine, counting what it does."""

    work = Work()

    def step(self, segments: Sequence[Segment]) -> list[list[int]]:
        """Count a step and run it."""
        bundles = sum(segment.choose > 0 for segment in segments)
        fed = sum(self.missing(each.session, each.tokens, each.choose) for each in segments)
        self.work = Work(self.work.steps + (bundles > 0), self.work.bundles + bundles, self.work.fed + fed)
        return super().step(segments)


def _server(connection: Connection[object, _Command], folder: Path, dtype: DType, threads: int | None) -> None:
    """Carry out commands, one after the other."""
    disable_progress_bar()
    engine = aside(
        lambda: CountingEngine(load_model(folder, dtype=dtype, device="cpu", threads=threads), kv_budget_bytes=1 << 30)
    )
    tokenizer, numerics = target_tokenizer(folder), numerics_fingerprint(folder, engine.dtype, engine.device)
    verifier: Verifier | None = None
    thread: threading.Thread | None = None
    while (command := connection.recv()) != "end":
        match command:
            case _Write(prompts, tokens):
                connection.send(aside(partial(_written, engine, prompts, tokens)))
            case _Serve(batching, address):
                options = VerifierOptions("bench", address, tokenizer, numerics, batching=parse_batching(batching))
                verifier = Verifier(options, engine)
                thread = threading.Thread(target=verifier.run)
                thread.start()
                connection.send(None)
            case "count":
                connection.send(engine.work)
            case _:
                assert verifier is not None
                assert thread is not None
                verifier.stop()
                thread.join()
                connection.send(None)


def _written(engine: PackedEngine, prompts: list[list[int]], tokens: int) -> list[list[int]]:
    """Return what the target writes after each prompt, so many tokens, whatever end tokens are among them."""
    outputs: list[list[int]] = [[] for _ in prompts]
    for _ in range(tokens):
        segments = [
            Segment(b"%d" % index, prompt + output, 1)
            for index, (prompt, output) in enumerate(zip(prompts, outputs, strict=True))
        ]
        for output, (chosen,) in zip(outputs, engine.step(segments), strict=True):
            output.append(chosen)
    for index in range(len(prompts)):
        engine.release(b"%d" % index)
    return outputs


class Server:
    """The verifier's process, seen from here."""

    def __init__(self, folder: Path, dtype: DType, threads: int | None) -> None:
        """Start it and load the target."""
        # Spawned, not forked: a copy of this process would hold its threads' locks.
        context = multiprocessing.get_context("spawn")
        self._here, there = context.Pipe()
        self._process = context.Process(target=_server, args=(there, folder, dtype, threads), daemon=True)
        self._process.start()
        there.close()

    def write(self, prompts: list[list[int]], tokens: int) -> list[list[int]]:
        """Return the target's own greedy outputs."""
        outputs = self._tell(_Write(prompts, tokens))
        assert isinstance(outputs, list)
        return outputs

    def serve(self, batching: str, address: BrokerAddress) -> None:
        """Start a verifier with a policy."""
        self._tell(_Serve(batching, address))

    def count(self) -> Work:
        """Return the work done since the start of the process."""
        work = self._tell("count")
        assert isinstance(work, Work)
        return work

    def stop(self) -> None:
        """End the verifier that serves; the target stays loaded."""
        self._tell("stop")

    def _tell(self, command: _Command) -> object:
        self._here.send(command)
        return self._here.recv()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self._here.send("end")
        else:
            self._process.terminate()
        self._process.join()
        self._here.close()
