"""Teaching one student in a folder of its own: checkpoints, the training curve, what a person sees meanwhile."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import msgspec
import torch

from models.distill.held_out import pool
from models.distill.material import WRITING
from models.distill.measure import DRAFT
from models.distill.report import Point
from models.distill.student_folder import fix_shape, shape_of
from models.distill.train import Recipe, Trainer

if TYPE_CHECKING:
    from pathlib import Path

    from models.distill.options import Options
    from models.distill.workshop import Workshop

_TRAINING = 0.4
"""Share of the minutes for training; the rest is for loading, export and measuring."""

_PASSES = 6
"""Over the texts at most, unless told otherwise: a distribution still teaches something the sixth time."""

_SAVE_SECONDS = 600.0
_SAVE_SHARE = 0.01
"""Of the time, at most, for checkpoints, but for one every `_SAVE_SECONDS`."""

_JUDGE_SECONDS = 1800.0
_JUDGE_SHARE = 0.05
"""Of the time, at most, for points of the curve."""
_CURVE_POINTS = 20


class Lesson:
    """One student in training.

    Args:
        workshop: what it shares with others.
        layers: of the target that it has, or its own by number.
        folder: of its checkpoint and curve; an earlier run's are gone on with.

    Attributes:
        layers: as given.
        folder: as given.
        trainer: with the student.
        curve: held-out results so far, those of earlier runs included.

    Raises:
        ModelError: the folder belongs to another student.
    """

    def __init__(self, workshop: Workshop, layers: tuple[int, ...], folder: Path) -> None:
        options, material = workshop.options, workshop.material
        folder.mkdir(parents=True, exist_ok=True)
        fix_shape(folder, shape_of(workshop.digest, layers, options))
        torch.manual_seed(options.seed)
        student = workshop.student(layers).to(workshop.model.device)
        recipe = recipe_of(options, tokens=sum(len(text.answer) for text in material.training), bits=workshop.bits)
        self.layers = layers
        self.folder = folder
        self.trainer = Trainer(
            student, workshop.vocabulary, workshop.teacher, material.training, recipe, prefix=material.prefix
        )
        self._held_out = material.held_out
        self._prefix = material.prefix
        self._progress = workshop.progress
        self._checkpoint = folder / "checkpoint.pt"
        self._curve_file = folder / "curve.jsonl"
        if self._checkpoint.is_file():
            self.trainer.resume(self._checkpoint)
        # What an earlier run judged after its last checkpoint comes again.
        self.curve = [point for point in _read_curve(self._curve_file) if point.tokens <= self.trainer.state.tokens]
        self._curve_file.write_bytes(b"".join(map(_line, self.curve)))
        self._title = _title(self.curve[-1]) if self.curve else "Training"
        self._judged = time.monotonic()
        self._judge_at = 0.0
        self._save_at = 0.0
        self._done = self.trainer.done

    def teach(self) -> None:
        """Train to the end and leave the student ready for export."""
        self._progress(self._title, round(1000 * self._done), 1000)
        self.trainer.run(self._watch)
        self.trainer.finish()

    def _watch(self, trainer: Trainer, done: float) -> None:
        now = time.monotonic()
        due = done - self._done >= 1 / _CURVE_POINTS or now - self._judged > _JUDGE_SECONDS
        if done >= 1 or (due and now > self._judge_at):
            self._judge()
            self._done, self._judged = done, time.monotonic()
            self._judge_at = self._judged + (self._judged - now) / _JUDGE_SHARE
        if now > self._save_at or done >= 1:
            started = time.monotonic()
            trainer.save(self._checkpoint)
            took = time.monotonic() - started
            self._save_at = now + min(_SAVE_SECONDS, took / _SAVE_SHARE)
        self._progress(self._title, round(1000 * done), 1000)

    def _judge(self) -> None:
        with self.trainer.averaged():
            counts = pool(self.trainer.agreement(self._held_out, prefix=self._prefix), DRAFT)
        state = self.trainer.state
        point = Point(state.tokens, state.seconds / 60, counts.agreement, counts.mean_accepted_length)
        self.curve.append(point)
        with self._curve_file.open("ab") as file:
            file.write(_line(point))
        self._title = _title(point)


def recipe_of(options: Options, *, tokens: int, bits: int) -> Recipe:
    """Return how to train.

    Args:
        options: what was chosen.
        tokens: answer tokens in one pass.
        bits: that the weights of the layers will be stored in.
    """
    share = _TRAINING + (WRITING if options.answers is not None else 0)
    return Recipe(
        tokens=options.tokens or _PASSES * tokens,
        minutes=share * options.minutes if options.minutes else None,
        seed=options.seed,
        bits=bits,
        dtype=options.dtype,
    )


def _title(point: Point) -> str:
    return f"Training: {point.mean_accepted_length:.2f} held-out tokens a round"


def _line(point: Point) -> bytes:
    return msgspec.json.encode(point) + b"\n"


def _read_curve(path: Path) -> list[Point]:
    lines = path.read_bytes().splitlines(keepends=True) if path.is_file() else []
    return [msgspec.json.decode(line, type=Point) for line in lines if line.endswith(b"\n")]
