"""Choosing tokens from logits, on the device that holds them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from schemas.messages import GREEDY, Sampling
from verifier.engine.blocks import Blocks
from verifier.engine.errors import EngineError
from verifier.engine.sample import Draws, sample

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from verifier.engine.segment import Job


@dataclass(frozen=True, slots=True)
class Row:
    """How the token of one row of logits is chosen.

    Attributes:
        session: whose it is, to name it in an error.
        sampling: the session's parameters and seed.
        position: output position of the token, from 0.
    """

    session: bytes | None = None
    sampling: Sampling = GREEDY
    position: int = 0


def rows_of(jobs: Iterable[Job]) -> list[Row]:
    """Return the rows of a step: those of each job in turn, its positions rising.

    A job that chooses nothing has one row all the same, for the sake of the check; nobody reads its token.
    """
    return [
        Row(job.session, job.sampling if job.choose else GREEDY, job.position + index)
        for job in jobs
        for index in range(max(1, job.choose))
    ]


def choose(logits: torch.Tensor, rows: Sequence[Row]) -> list[int]:
    """Return the token of each row, as `schemas.choice.choose` would have it from the same logits.

    Args:
        logits: [N, V], any float dtype and device.
        rows: N of them.

    Returns:
        N token ids.

    Raises:
        EngineError: a row holds NaN, or one that is sampled has no finite highest logit; names the session.
    """
    if not rows:
        return []
    blocks = Blocks(logits)
    _check(blocks, rows)
    sampled = [index for index, row in enumerate(rows) if row.sampling.temperature > 0]
    if not sampled:
        return _as_ints(blocks.first_highest())
    one_by_one = logits.device.type == "cpu"
    draws = Draws.of([rows[index] for index in sampled], logits.shape[1], logits.device)
    if len(sampled) == len(rows):
        return _as_ints(sample(blocks, draws, one_by_one=one_by_one))
    tokens = blocks.first_highest()
    index = torch.tensor(sampled, device=logits.device)
    tokens[index] = sample(blocks.rows(index), draws, one_by_one=one_by_one)
    return _as_ints(tokens)


def choose_greedy(logits: torch.Tensor, sessions: Sequence[bytes] | None = None) -> list[int]:
    """Return the id of the largest logit of each row, the lowest id on ties (see `choose`).

    Args:
        logits: [N, V], any float dtype and device.
        sessions: the session of each row, only to name it in an error.
    """
    return choose(logits, [Row(session) for session in sessions] if sessions else [Row()] * len(logits))


def _check(blocks: Blocks, rows: Sequence[Row]) -> None:
    """Refuse rows without a highest number; a maximum of NaN and anything is NaN, so none needs a search of its own.

    Raises:
        EngineError: names the first such row's session.
    """
    highest = blocks.highest
    if bool(highest.isfinite().all()):
        return
    for index, (value, row) in enumerate(zip(highest.tolist(), rows, strict=True)):
        if value != value or (abs(value) == float("inf") and row.sampling.temperature > 0):  # noqa: PLR0124 - NaN
            where = f" of session {row.session.hex()}" if row.session is not None else ""
            what = "NaN" if value != value else f"the highest is {value}"  # noqa: PLR0124 - likewise
            raise EngineError(
                f"The target's logits{where} are not numbers ({what}, row {index} of {len(rows)}); its weights or the "
                "step's keys and values are damaged. The sessions of this step are prefilled again.",
                session=row.session,
            )


def _as_ints(tokens: torch.Tensor) -> list[int]:
    return [int(token) for token in tokens.tolist()]
