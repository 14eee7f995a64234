"""Teaching a student: the loop, its schedule, its checkpoints."""

from __future__ import annotations

import math
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

import msgspec
import numpy as np
import torch
from torch.nn.utils import parametrize

from models.cache import replacing
from models.distill.batches import collate, plan_epoch
from models.distill.forward import answer_states, scaled
from models.distill.loss import TOKEN_SHARE, distillation_loss, token_loss
from models.distill.quantise import INT4, Rounded
from models.distill.student import layer_prefix
from models.error import ModelError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from transformers import PreTrainedModel

    from models.distill.batches import Batch
    from models.distill.teacher import Teacher
    from models.distill.texts import Text
    from models.distill.vocabulary import Vocabulary


class Recipe(msgspec.Struct, frozen=True):
    """How to train.

    Attributes:
        tokens: answer tokens to see, repetitions included.
        minutes: to train at most; None for no limit.
        batch: tokens of a step, padding included.
        rate: learning rate at its highest.
        warm_up: steps until it is reached.
        decay: share of the training, at its end, in which it falls to nothing.
        average: how much of the running average of the weights a step keeps.
        tokens_first: share of the training, at its start, on the target's tokens alone: they are written already,
            while its distribution costs a pass of the target for every text.
        token_share: after that, see `distillation_loss`.
        seed: of the order of the texts.
        bits: that the weights of the layers will be stored in; with 4, the training learns to live with it.
        rounded: share of the training, at its end, in which weights are used as they will be stored.
        dtype: that matrices are multiplied in, `float32` or `bfloat16`; weights are kept in float32.
    """

    tokens: int
    minutes: float | None = None
    batch: int = 768
    rate: float = 1e-3
    warm_up: int = 40
    decay: float = 0.25
    average: float = 0.998
    tokens_first: float = 0.95
    token_share: float = TOKEN_SHARE
    seed: int = 0
    bits: int = 8
    rounded: float = 0.35
    dtype: str = "float32"


class State(msgspec.Struct):
    """How far the training is.

    Attributes:
        step: optimiser steps made.
        epoch: passes over the texts completed.
        batch: batches of the current pass done.
        tokens: answer tokens seen.
        seconds: spent on steps.
        loss: smoothed.
        agreement: smoothed, with the target's token, in training.
    """

    step: int = 0
    epoch: int = 0
    batch: int = 0
    tokens: int = 0
    seconds: float = 0.0
    loss: float = math.nan
    agreement: float = math.nan


class Watcher(Protocol):
    """Called after every step."""

    def __call__(self, trainer: Trainer, done: float) -> None:
        """Look at the training.

        Args:
            trainer: whose state and weights may be read.
            done: share of the training that is done, 0 to 1.
        """
        ...


class Trainer:
    """A student in training.

    Args:
        student: from `cut_student`; changed in place.
        vocabulary: its tokens.
        teacher: of these texts.
        texts: to train on.
        recipe: how.
        prefix: leading ids that all texts share.
    """

    def __init__(
        self,
        student: PreTrainedModel,
        vocabulary: Vocabulary,
        teacher: Teacher,
        texts: Sequence[Text],
        recipe: Recipe,
        *,
        prefix: int,
    ) -> None:
        self.student = student
        self.state = State()
        self.recipe = recipe
        self.teacher = teacher
        self._texts = texts
        self._prefix = prefix
        self._inward = torch.from_numpy(vocabulary.inward)
        self._outward = torch.from_numpy(vocabulary.outward)
        # Listed once: rounding gives the weights other names and places, not other tensors.
        self._weights = list(student.parameters())
        self._averaged = [value.detach().clone() for value in self._weights]
        self._rounding: list[torch.nn.Linear] = []
        self._optimizer = torch.optim.AdamW(
            self._weights, lr=recipe.rate, betas=(0.9, 0.95), weight_decay=0.01, fused=True
        )

    def run(self, watch: Watcher) -> None:
        """Train until the recipe's tokens or minutes are used up."""
        while (done := self.done) < 1:
            for batch in self._rest_of_epoch():
                started = time.monotonic()
                if self.recipe.bits == 4 and done >= 1 - self.recipe.rounded:
                    self._start_rounding()
                self._step(batch, done)
                self.state.batch += 1
                self.state.seconds += time.monotonic() - started
                done = self.done
                watch(self, done)
                if done >= 1:
                    return
            self.state.epoch, self.state.batch = self.state.epoch + 1, 0

    @property
    def done(self) -> float:
        """Share of the training that is done."""
        by_time = self.state.seconds / (60 * self.recipe.minutes) if self.recipe.minutes else 0.0
        return min(1.0, max(by_time, self.state.tokens / self.recipe.tokens))

    def _rest_of_epoch(self) -> Iterator[list[int]]:
        lengths = [len(text.ids) - self._prefix for text in self._texts]
        plan = plan_epoch(lengths, tokens=self.recipe.batch, seed=self.recipe.seed, epoch=self.state.epoch)
        for index, batch in enumerate(plan):
            if index >= self.state.batch:
                yield batch

    def _step(self, indices: list[int], done: float) -> None:
        state, recipe = self.state, self.recipe
        for group in self._optimizer.param_groups:
            group["lr"] = recipe.rate * rate_factor(state.step, done, recipe)
        batch = self.read(collate([self._texts[index] for index in indices], self._prefix))
        self.student.train()
        logits = self._logits(batch)
        if done < recipe.tokens_first:
            loss = token_loss(logits, batch.wanted)
        else:
            rows, chances = (tensor.to(self.student.device) for tensor in self.teacher.look_up(indices))
            loss = distillation_loss(logits, batch.wanted, rows, chances, token_share=recipe.token_share)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self._weights, 1.0)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        keep = min(recipe.average, (1 + state.step) / (10 + state.step))
        torch._foreach_lerp_(self._averaged, [value.detach() for value in self._weights], 1 - keep)
        state.step += 1
        state.tokens += len(batch.wanted)
        state.loss = _smooth(state.loss, float(loss.detach()))
        state.agreement = _smooth(state.agreement, float((logits.argmax(-1) == batch.wanted).float().mean()))
        if not math.isfinite(state.loss):
            raise ModelError(
                f"The training failed at step {state.step}: the loss is no number any more. Start again with a lower "
                f"rate than {recipe.rate:g}."
            )

    def read(self, batch: Batch) -> Batch:
        """Return a batch in the student's rows; answer tokens that it cannot write become -1."""
        mine = batch._replace(
            prefix=self._inward[batch.prefix], ids=self._inward[batch.ids], wanted=self._outward[batch.wanted]
        )
        return mine.to(self.student.device)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Use the running average of the weights for the length of a block."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def finish(self) -> None:
        """Leave the student with the averaged weights, as plain numbers, ready for export."""
        self._swap()
        for linear in self._rounding:
            parametrize.remove_parametrizations(linear, "weight", leave_parametrized=False)
        self._rounding.clear()
        self.student.eval()

    @torch.inference_mode()
    def agreement(self, texts: Sequence[Text], *, prefix: int) -> list[NDArray[np.bool_]]:
        """Return for each text at which answer positions the student's greedy token is the text's own, bool [T].

        Args:
            texts: not those of the training.
            prefix: leading ids that all of them share.
        """
        self.student.eval()
        found: dict[int, NDArray[np.bool_]] = {}
        lengths = [len(text.ids) - prefix for text in texts]
        for indices in plan_epoch(lengths, tokens=2 * self.recipe.batch, seed=0, epoch=0):
            batch = self.read(collate([texts[index] for index in indices], prefix))
            hits = self._logits(batch).argmax(-1) == batch.wanted
            ends = np.cumsum([len(texts[index].answer) for index in indices])
            found.update(zip(indices, np.split(hits.cpu().numpy(), ends[:-1]), strict=True))
        return [found[index] for index in range(len(texts))]

    def _logits(self, batch: Batch) -> torch.Tensor:
        dtype = torch.bfloat16 if self.recipe.dtype == "bfloat16" else torch.float32
        with torch.autocast(self.student.device.type, dtype, enabled=dtype != torch.float32):
            logits: torch.Tensor = self.student.get_output_embeddings()(answer_states(self.student, batch))
            return scaled(logits, self.student)

    def _start_rounding(self) -> None:
        if self._rounding:
            return
        prefix = layer_prefix(self.student)
        self._rounding = [
            module
            for name, module in self.student.named_modules()
            if name.startswith(prefix) and isinstance(module, torch.nn.Linear)
        ]
        for linear in self._rounding:
            parametrize.register_parametrization(linear, "weight", Rounded(INT4))

    def _swap(self) -> None:
        with torch.no_grad():
            for mine, theirs in zip(self._weights, self._averaged, strict=True):
                kept = mine.clone()
                mine.copy_(theirs)
                theirs.copy_(kept)

    def save(self, path: Path) -> None:
        """Write a checkpoint, whole or not at all."""
        # To a file that is open already: of a path, torch does not say that the disk is full.
        with replacing(path) as partial, partial.open("wb") as file:
            torch.save(
                {
                    "state": msgspec.structs.asdict(self.state),
                    "weights": [value.detach() for value in self._weights],
                    "averaged": self._averaged,
                    "optimizer": self._optimizer.state_dict(),
                },
                file,
            )

    def resume(self, path: Path) -> None:
        """Go on from a checkpoint.

        Raises:
            ModelError: it is damaged, or of another student.
        """
        try:
            saved: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
            with torch.no_grad():
                for mine, theirs in zip(self._weights, saved["weights"], strict=True):
                    mine.copy_(theirs)
            for mine, theirs in zip(self._averaged, saved["averaged"], strict=True):
                mine.copy_(theirs)
            self._optimizer.load_state_dict(saved["optimizer"])
            self.state = State(**saved["state"])
        except Exception as error:
            raise ModelError(
                f"The checkpoint {path} cannot be used ({str(error).partition(chr(10))[0]}); remove it to start anew, "
                "or give the layers and the vocabulary it was made with."
            ) from error


def rate_factor(step: int, done: float, recipe: Recipe) -> float:
    """Return the share of the highest learning rate: warm-up, level, then a straight fall to nothing."""
    warm = min(1.0, (step + 1) / recipe.warm_up) if recipe.warm_up else 1.0
    fall = min(1.0, (1.0 - done) / recipe.decay) if recipe.decay else 1.0
    return warm * fall


def _smooth(known: float, new: float) -> float:
    return new if math.isnan(known) else 0.98 * known + 0.02 * new
