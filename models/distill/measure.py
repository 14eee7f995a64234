"""Measuring an exported drafter: its size, its time for a token, and how much of its drafts a target would accept."""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from models.distill.held_out import Acceptance, Agreement, pool

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from edge_agent.drafters.drafter import Drafter
    from models.distill.texts import Text
    from models.progress import Progress

DRAFT = 4
"""Tokens of a draft that acceptance is stated for."""

_LONGEST_DRAFT = 16


class Trial(msgspec.Struct, frozen=True):
    """What a drafter did beside given answers.

    Attributes:
        agreements: of its greedy tokens with each text.
        sources: of these texts.
        ms_per_token: median time of a token, those that follow a new prompt left out; 0 if there was no other.
    """

    agreements: list[Agreement]
    sources: list[str]
    ms_per_token: float


class Speed(msgspec.Struct, frozen=True):
    """What is to be expected at a round-trip time, with drafts of one fixed length.

    Attributes:
        round_trip_ms: between device and server, there and back.
        draft: the best number of tokens to draft in every round.
        tokens_per_s: committed with it.
        speed_up: over drafting nothing, when each round trip brings one token.
        of_alone: over the target writing by itself where it runs, without any round trip.
    """

    round_trip_ms: float
    draft: int
    tokens_per_s: float
    speed_up: float
    of_alone: float


def draft_along(
    drafter: Drafter, texts: Sequence[Text], *, longest: int, seconds: float | None, progress: Progress
) -> Trial:
    """Let a drafter propose a token at every position of given answers, told them token by token as in an agent.

    Args:
        drafter: to be tried.
        texts: not those it was trained on, at least one.
        longest: of an answer, in tokens.
        seconds: to spend at most, but for the last text; None for all texts.
        progress: told how many texts are done.
    """
    agreements: list[Agreement] = []
    times: list[float] = []
    began = time.monotonic()
    for done, text in enumerate(texts):
        if agreements and seconds is not None and time.monotonic() - began > seconds:
            break
        progress("Drafting for held-out answers", done, len(texts))
        ids = text.ids[: text.prompt + longest].tolist()
        hits = []
        for end in range(text.prompt, min(len(ids), drafter.context_length)):
            started = time.perf_counter()
            proposal = drafter.propose(ids[:end])
            if end > text.prompt:
                times.append(time.perf_counter() - started)
            hits.append(proposal is not None and proposal.token == ids[end])
        agreements.append(np.asarray(hits, np.bool_))
    sources = [text.source for text in texts[: len(agreements)]]
    return Trial(agreements, sources, 1e3 * statistics.median(times or [0.0]))


def expected_speeds(
    agreements: Sequence[Agreement],
    *,
    draft_ms: float,
    verify_ms: float,
    alone_ms: float,
    round_trips_ms: Sequence[float],
) -> list[Speed]:
    """Return the best speed at each round-trip time, if a device has the server to itself.

    A round takes `draft · draft_ms + round trip + step` and commits the mean accepted length of such drafts. The
    target's step takes `alone_ms` without a draft, `verify_ms` with one of `DRAFT` tokens, and grows evenly with it.

    Args:
        agreements: see `Trial`.
        draft_ms: of a draft token.
        verify_ms: of the target's step with a draft of `DRAFT` tokens.
        alone_ms: of its step without one.
        round_trips_ms: between device and server, there and back.
    """
    accepted: dict[int, Acceptance] = {draft: pool(agreements, draft) for draft in range(1, _LONGEST_DRAFT + 1)}
    row_ms = max(0.0, verify_ms - alone_ms) / DRAFT  # noise may turn two times that are nearly the same
    speeds = []
    for round_trip in round_trips_ms:
        rates = {
            draft: counts.mean_accepted_length * 1e3 / (draft * (draft_ms + row_ms) + round_trip + alone_ms)
            for draft, counts in accepted.items()
        }
        rates[0] = 1e3 / (round_trip + alone_ms)
        best = max(rates, key=rates.__getitem__)
        speeds.append(Speed(round_trip, best, rates[best], rates[best] / rates[0], rates[best] * alone_ms / 1e3))
    return speeds


def folder_bytes(folder: Path) -> int:
    """Return the size of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
