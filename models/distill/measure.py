"""Measuring an exported drafter: its size, its time for a token, and how much of its drafts a target would accept."""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from models.distill.held_out import Acceptance, pool

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from edge_agent.drafters.drafter import Drafter
    from models.distill.texts import Text
    from models.progress import Progress

DRAFT = 4
"""Tokens of a draft that acceptance is stated for."""

_LONGEST_DRAFT = 16


class Speed(msgspec.Struct, frozen=True):
    """What is to be expected at a round-trip time.

    Attributes:
        round_trip_ms: between device and server, there and back.
        draft: the best number of tokens to draft in a round.
        tokens_per_s: committed with it.
        speed_up: over drafting nothing, when each round trip brings one token.
    """

    round_trip_ms: float
    draft: int
    tokens_per_s: float
    speed_up: float


def agree(drafter: Drafter, texts: Sequence[Text], *, longest: int, progress: Progress) -> list[NDArray[np.bool_]]:
    """Return for each text at which answer positions the drafter's greedy token is the text's own, bool [T].

    Args:
        drafter: is told the texts token by token, as an agent does it.
        texts: not those it was trained on.
        longest: of an answer, in tokens.
        progress: told how many texts are done.
    """
    found = []
    for done, text in enumerate(texts):
        progress("Drafting for held-out answers", done, len(texts))
        ids = text.ids[: text.prompt + longest].tolist()
        hits = []
        for end in range(text.prompt, min(len(ids), drafter.context_length)):
            proposal = drafter.propose(ids[:end])
            hits.append(proposal is not None and proposal.token == ids[end])
        found.append(np.asarray(hits, np.bool_))
    return found


def ms_per_token(drafter: Drafter, text: Text, *, tokens: int = 48) -> float:
    """Return the median time of a drafted token after a prompt, in milliseconds."""
    sequence = text.ids[: text.prompt].tolist()
    times = []
    for _ in range(min(tokens, drafter.context_length - len(sequence))):
        started = time.perf_counter()
        proposal = drafter.propose(sequence)
        times.append(time.perf_counter() - started)
        if proposal is None:
            break
        sequence.append(proposal.token)
    return statistics.median(times[1:] or times) * 1e3  # the first one reads the prompt


def expected_speeds(
    agreements: Sequence[NDArray[np.bool_]], *, draft_ms: float, verify_ms: float, round_trips_ms: Sequence[float]
) -> list[Speed]:
    """Return the best speed at each round-trip time, if a device has the server to itself.

    A round takes `draft · draft_ms + round trip + verify_ms` and commits the mean accepted length of such drafts.
    """
    accepted: dict[int, Acceptance] = {draft: pool(agreements, draft) for draft in range(_LONGEST_DRAFT + 1)}
    speeds = []
    for round_trip in round_trips_ms:
        rates = {
            draft: counts.mean_accepted_length * 1e3 / (draft * draft_ms + round_trip + verify_ms)
            for draft, counts in accepted.items()
        }
        best = max(rates, key=rates.__getitem__)
        speeds.append(Speed(round_trip, best, rates[best], rates[best] / rates[0] if rates[0] else 0.0))
    return speeds


def folder_bytes(folder: Path) -> int:
    """Return the size of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
