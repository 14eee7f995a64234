"""What may be chosen about a distillation."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec


class Options(msgspec.Struct, frozen=True):
    """What may be chosen about a distillation.

    Attributes:
        prompts: file of prompts (see `read_prompts`); None lets the target think up its own.
        answers: file of the target's answers to them; None lets it write them.
        evaluation: file of prompts for the final evaluation only; None judges the drafter by the texts held out.
        layers: which of the target's layers, or how many; None takes about a third.
        width: of a student by configuration (see `small_student`), a multiple of 16; None cuts it from the target.
        vocabulary: how many tokens the student can write.
        minutes: for everything, roughly; None trains until `tokens` are seen.
        tokens: answer tokens to see, repetitions included; None for up to six passes.
        texts: how many answers the target writes, where no minutes bound it.
        batch: answers written at a time.
        longest_prompt: of a training text, in tokens; see `worth_training`.
        context: the longest sequence the drafter reads.
        round_trips_ms: for the expected speed-up.
        device: a torch device, or `auto`.
        dtype: that matrices are multiplied in.
        seed: of all that is random.
        threads: CPU threads for torch; None leaves torch's own choice.
        command: to be written on the card.
    """

    prompts: Path | None = None
    answers: Path | None = None
    evaluation: Path | None = None
    layers: int | tuple[int, ...] | None = None
    width: int | None = None
    vocabulary: int = 12_288
    minutes: float | None = None
    tokens: int | None = None
    texts: int = 20_000
    batch: int = 64
    longest_prompt: int = 288
    context: int = 4096
    round_trips_ms: tuple[float, ...] = (5.0, 20.0, 50.0, 100.0)
    device: str = "auto"
    dtype: Literal["float32", "bfloat16"] = "float32"
    seed: int = 0
    threads: int | None = None
    command: str = "sled draft distill"
