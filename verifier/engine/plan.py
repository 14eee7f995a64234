"""What is the same for every layer of one step: the packing order, views, masks and index tensors.

The tokens of a step are packed into one sequence [1, ΣT]. Attention then runs per *run*: sessions that feed equally
many tokens, hold similarly many, and lie at equal distances in the store, so that one strided view shows them all.
Any two sessions are at equal distances, so runs are mostly pairs or more; each call of the attention kernel has a
cost of its own, about that of 300 keys.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from verifier.engine.kv import KVStore

FOLD_TOKENS = 64
"""Up to so many fed tokens the query heads that share a KV head are folded into the query length, so that each key is
read once; beyond it the arithmetic outweighs the reading, and causal masks save half of it."""

_WIDEST = 32
"""The most sessions in a run; more would gain nothing."""

_SLACK_KEYS = 64
"""So many keys, or an eighth, may be read beyond a session's own for the sake of a larger run."""


@dataclass(frozen=True, slots=True)
class Span:
    """Where one session stands: `past` tokens held from row `start` on, `count` tokens fed behind them."""

    start: int
    past: int
    count: int


@dataclass(frozen=True, slots=True)
class Run:
    """Sessions attended in one call.

    Attributes:
        batch: how many sessions.
        count: how many tokens each feeds (T).
        folded: whether query groups are folded into the length.
        start: store row of the first key of the first session.
        stride: rows from one session's first key to the next one's.
        keys: keys read per session (L).
        causal: the mask is the plain causal one over an L of T; `mask` is then None.
        mask: additive, [batch, 1, G·T if folded else T, L]; None where every key is seen.
    """

    batch: int
    count: int
    folded: bool
    start: int
    stride: int
    keys: int
    causal: bool
    mask: torch.Tensor | None


@dataclass(frozen=True, slots=True)
class Fold:
    """The runs of a step for one sliding window and head layout, and the row orders between them and the model.

    The model's rows are ordered (token, head); a run's are ordered (KV head, run, session, group, token).

    Attributes:
        runs: in packed order.
        sizes: query rows per KV head of each run, batch·G·T.
        gather: [ΣT·H] the model's row for each run row.
        scatter: [ΣT·H] the run row for each of the model's.
    """

    runs: tuple[Run, ...]
    sizes: list[int]
    gather: torch.Tensor
    scatter: torch.Tensor


class StepPlan:
    """One step's plan, handed through the model's forward to the attention function of every layer.

    Attributes:
        store: where keys and values are.
        order: indices into the spans given, in the order their tokens are packed.
        rows: [ΣT] store row of each packed token.
        positions: [ΣT] position of each packed token in its session.
    """

    def __init__(self, store: KVStore, spans: Sequence[Span], dtype: torch.dtype, device: torch.device) -> None:
        self.store = store
        bundles = _bundles(spans)
        self.order = [index for bundle in bundles for index in bundle]
        self._bundles = [[spans[index] for index in bundle] for bundle in bundles]
        self._dtype = dtype
        self._device = device
        self._folds: dict[tuple[int | None, int, int], Fold] = {}
        ordered = [spans[index] for index in self.order]
        positions = np.concatenate([np.arange(span.past, span.past + span.count) for span in ordered])
        starts = np.repeat([span.start for span in ordered], [span.count for span in ordered])
        self.positions = torch.from_numpy(positions).to(device)
        self.rows = torch.from_numpy(positions + starts).to(device)
        self._key = torch.arange(max(span.past + span.count for span in spans), device=device)

    def fold(self, window: int | None, kv_heads: int, groups: int) -> Fold:
        """Return the runs for a sliding window (None: all keys) and H = kv_heads · groups query heads."""
        found = self._folds.get((window, kv_heads, groups))
        if found is None:
            found = self._folds[window, kv_heads, groups] = self._make_fold(window, kv_heads, groups)
        return found

    def _make_fold(self, window: int | None, kv_heads: int, groups: int) -> Fold:
        runs: list[Run] = []
        for bundle in self._bundles:
            members: list[Span] = []
            for span in bundle:
                if members and not self._joins(members, span, window):
                    runs.append(self._make_run(members, window, groups))
                    members = []
                members.append(span)
            runs.append(self._make_run(members, window, groups))
        total = len(self.rows)
        model_rows = np.arange(total * kv_heads * groups).reshape(total, kv_heads, groups)
        pieces, at = [], 0
        for run in runs:
            size = run.batch * run.count
            piece = model_rows[at : at + size].reshape(run.batch, run.count, kv_heads, groups)
            pieces.append(piece.transpose(2, 0, 3, 1).reshape(kv_heads, -1))
            at += size
        gather = np.concatenate(pieces, axis=1).ravel()
        scatter = np.empty_like(gather)
        scatter[gather] = np.arange(len(gather))
        return Fold(
            runs=tuple(runs),
            sizes=[run.batch * run.count * groups for run in runs],
            gather=torch.from_numpy(gather).to(self._device),
            scatter=torch.from_numpy(scatter).to(self._device),
        )

    def _joins(self, members: list[Span], span: Span, window: int | None) -> bool:
        """Whether one strided view can show `members` and `span`."""
        starts = [member.start + _first_key(member, window) for member in (*members, span)]
        stride = starts[-1] - starts[-2]
        lengths = [_key_count(member, window) for member in (*members, span)]
        return (
            stride > 0
            and stride == starts[1] - starts[0]
            and max(lengths) - min(lengths) <= _slack(min(lengths))
            and starts[-1] + max(lengths) <= self.store.rows
        )

    def _make_run(self, members: list[Span], window: int | None, groups: int) -> Run:
        starts = [member.start + _first_key(member, window) for member in members]
        lengths = [_key_count(member, window) for member in members]
        count, keys = members[0].count, max(lengths)
        folded = count <= FOLD_TOKENS
        causal = not folded and keys == count and (window is None or keys <= window)
        all_seen = count == 1 and min(lengths) == keys
        return Run(
            batch=len(members),
            count=count,
            folded=folded,
            start=starts[0],
            stride=starts[1] - starts[0] if len(starts) > 1 else keys,
            keys=keys,
            causal=causal,
            mask=None if causal or all_seen else self._mask(members, keys, window, groups if folded else 1),
        )

    def _mask(self, members: list[Span], keys: int, window: int | None, groups: int) -> torch.Tensor:
        count = members[0].count
        # Finite, so that a key block masked whole cannot make a NaN; half of the least, so that adding a score cannot
        # overflow to infinity.
        hidden = torch.finfo(self._dtype).min / 2
        mask = torch.zeros(len(members), 1, count, keys, dtype=self._dtype, device=self._device)
        # Positions are counted from each session's first key.
        base = [[[[member.past - _first_key(member, window)]]] for member in members]
        query = torch.tensor(base, device=self._device) + self._key[:count, None]
        key = self._key[:keys]
        mask.masked_fill_(key > query, hidden)
        if window is not None:
            mask.masked_fill_(key <= query - window, hidden)
        return mask.repeat(1, 1, groups, 1)


def _first_key(span: Span, window: int | None) -> int:
    """The first position any fed token of `span` sees: a window of W shows the token itself and W - 1 before it."""
    return 0 if window is None else max(0, span.past - window + 1)


def _key_count(span: Span, window: int | None) -> int:
    return span.past + span.count - _first_key(span, window)


def _slack(keys: int) -> int:
    return max(_SLACK_KEYS, keys // 8)


def _bundles(spans: Sequence[Span]) -> list[list[int]]:
    """Divide spans into bundles that one view can show when all keys are seen, each in the order of its rows."""
    left = sorted(range(len(spans)), key=lambda index: (spans[index].count, spans[index].past))
    bundles: list[list[int]] = []
    while left:
        first = spans[left[0]]
        near = [left[0]]
        if first.count <= FOLD_TOKENS:
            reach = first.past + _slack(first.past + first.count)
            for index in left[1:_WIDEST]:
                if spans[index].count != first.count or spans[index].past > reach:
                    break
                near.append(index)
        bundle = _longest_progression([spans[index].start for index in near])
        bundles.append([near[place] for place in bundle])
        left = [index for index in left if index not in set(bundles[-1])]
    return bundles


def _longest_progression(starts: list[int]) -> list[int]:
    """Return places in `starts`, by rising start, of the longest arithmetic progression that includes the first.

    Among equally long ones, the one with the earliest place wins: those are nearest in length.
    """
    place = {start: index for index, start in enumerate(starts)}
    best = [starts[0]]
    for other in starts[1:]:
        low, high = sorted((starts[0], other))
        stride = high - low
        run = [low, high]
        while run[-1] + stride in place:
            run.append(run[-1] + stride)
        while run[0] - stride in place:
            run.insert(0, run[0] - stride)
        if len(run) > len(best):
            best = run
    return [place[start] for start in best]
