"""Keys and values of many sessions in one preallocated store per layer, under a budget in bytes.

Each session owns a contiguous range of rows, the same range in every layer; one row is one token. Writing a step is
one `index_copy_` per layer, reading a session (or several of equal distance) is a view, and rolling back moves an
integer. Ranges come in whole blocks; when no gap is large enough the store is repacked, and when there is no room the
least recently used session is evicted. It comes back by prefill.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import torch

from verifier.engine.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from verifier.engine.segment import Tokens

_NOTHING: Tokens = np.empty(0, dtype=np.int32)
_NOTHING.flags.writeable = False


@dataclass(frozen=True, slots=True)
class LayerShape:
    """What one layer stores for a token: keys [kv_heads, key_dim] and values [kv_heads, value_dim] of `dtype`."""

    kv_heads: int
    key_dim: int
    value_dim: int
    dtype: torch.dtype

    @property
    def row_bytes(self) -> int:
        """Bytes of one token in this layer."""
        return self.kv_heads * (self.key_dim + self.value_dim) * self.dtype.itemsize


Layout: TypeAlias = "Mapping[int, LayerShape]"
"""The layers of a model by their `layer_idx`."""


@dataclass(slots=True)
class _Held:
    """Rows [start, start + size) belong to the session; the first len(tokens) hold the K/V of `tokens`."""

    start: int
    size: int
    tokens: Tokens


class KVStore:
    """Keys and values of all sessions.

    Attributes:
        evictions: how many sessions lost their rows to others since the start.
        budget_bytes: what may be used at most.
        rows: how many tokens fit, in whole blocks.
    """

    def __init__(self, layout: Layout, *, budget_bytes: int, device: torch.device, block_tokens: int = 128) -> None:
        self.budget_bytes = budget_bytes
        self.evictions = 0
        self._block = block_tokens
        self._row_bytes = sum(shape.row_bytes for shape in layout.values())
        self.rows = budget_bytes // self._row_bytes // block_tokens * block_tokens
        if self.rows == 0:
            raise EngineError(
                f"A KV budget of {budget_bytes} bytes holds no block of {block_tokens} tokens, which takes "
                f"{self._row_bytes * block_tokens} bytes with this target; raise the budget."
            )
        try:
            self._layers = {
                index: (
                    _zeros((self.rows, shape.kv_heads, shape.key_dim), shape.dtype, device),
                    _zeros((self.rows, shape.kv_heads, shape.value_dim), shape.dtype, device),
                )
                for index, shape in layout.items()
            }
        except (MemoryError, torch.OutOfMemoryError) as error:
            raise EngineError(
                f"The KV budget of {budget_bytes} bytes does not fit into the memory of {device}; lower it."
            ) from error
        # In order of use, the least recently used first.
        self._held: OrderedDict[bytes, _Held] = OrderedDict()

    @property
    def used_bytes(self) -> int:
        """Bytes reserved for sessions, in whole blocks."""
        return sum(held.size for held in self._held.values()) * self._row_bytes

    @property
    def sessions(self) -> int:
        """How many sessions hold rows."""
        return len(self._held)

    def layer(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return keys [rows, kv_heads, key_dim] and values [rows, kv_heads, value_dim] of a layer."""
        return self._layers[index]

    def tokens(self, session: bytes) -> Tokens:
        """Return the token ids whose K/V are held for `session`, [length]; empty if none are."""
        held = self._held.get(session)
        return _NOTHING if held is None else held.tokens

    def start(self, session: bytes) -> int:
        """Return the first row of a session that holds rows."""
        return self._held[session].start

    def check(self, lengths: Mapping[bytes, int]) -> None:
        """Check that sessions of these lengths fit into the store together, all others evicted.

        Raises:
            EngineError: they do not; names both numbers.
        """
        needed = sum(self._whole(length) for length in lengths.values())
        if needed > self.rows:
            raise EngineError(
                f"A step over {len(lengths)} sessions needs {needed * self._row_bytes} bytes of KV memory "
                f"({needed} tokens in blocks of {self._block}), but the budget is {self.budget_bytes} bytes "
                f"({self.rows} tokens); put fewer sessions in a step or raise the budget."
            )

    def reserve(self, lengths: Mapping[bytes, int], keep: Mapping[bytes, int]) -> None:
        """Give each session rows for `lengths` tokens and roll it back to its first `keep` tokens.

        Sessions not named may be evicted, the least recently used first. Those named become the most recently used.

        Raises:
            EngineError: as `check`; nothing has changed then.
        """
        self.check(lengths)
        try:
            self._reserve(lengths, keep)
        except BaseException:
            # Out of memory in the middle of a move: which rows are whose is no longer known.
            self._held.clear()
            raise

    def _reserve(self, lengths: Mapping[bytes, int], keep: Mapping[bytes, int]) -> None:
        for session in lengths:
            held = self._held.get(session)
            if held is not None:
                held.tokens = held.tokens[: keep[session]]
                # Without this a session cut short could hold more than `check` has counted for it.
                held.size = min(held.size, self._whole(lengths[session]))
                self._held.move_to_end(session)
        for session, length in lengths.items():
            size = self._whole(length)
            held = self._held.get(session)
            if held is None:
                self._make_room(size, lengths)
                self._held[session] = _Held(self._gap(size), size, _NOTHING)
            elif held.size < size:
                self._grow(session, held, size, lengths)

    def commit(self, session: bytes, tokens: Tokens) -> None:
        """Note that the rows of `session` now hold the K/V of `tokens`."""
        self._held[session].tokens = tokens

    def drop(self, session: bytes, *, wipe: bool = False) -> None:
        """Forget a session; a session not held is fine.

        Args:
            session: its id.
            wipe: zero its rows too. Rows past a session's end may be read under a mask by a neighbour's view, and a
                masked NaN is still a NaN once multiplied by zero; so rows that may hold one must not stay.
        """
        held = self._held.pop(session, None)
        if held is None or not wipe:
            return
        for keys, values in self._layers.values():
            keys[held.start : held.start + held.size].zero_()
            values[held.start : held.start + held.size].zero_()

    def _whole(self, length: int) -> int:
        return -(-length // self._block) * self._block

    def _make_room(self, size: int, busy: Mapping[bytes, int]) -> None:
        """Evict until `size` more rows are free in total, and repack if they are not in one piece."""
        free = self.rows - sum(held.size for held in self._held.values())
        while free < size:
            # `check` has shown that the busy ones fit together, so another one is left.
            victim = next(session for session in self._held if session not in busy)
            free += self._held.pop(victim).size
            self.evictions += 1
        if self._gap(size) < 0:
            self._repack()

    def _grow(self, session: bytes, held: _Held, size: int, busy: Mapping[bytes, int]) -> None:
        end = held.start + held.size
        after = min((other.start for other in self._held.values() if other.start >= end), default=self.rows)
        if after - held.start >= size:
            held.size = size
            return
        start = self._gap(size)
        if start < 0:
            # Only the difference is new, but it must follow the rows held: repack with this session last.
            self._make_room(size - held.size, busy)
            self._repack(last=session)
            held.size = size
            return
        source = torch.arange(held.start, held.start + len(held.tokens))
        self._move(source, source + (start - held.start))
        held.start, held.size = start, size

    def _gap(self, size: int) -> int:
        """Return the first row of the first gap of at least `size` rows, or -1."""
        at = 0
        for held in sorted(self._held.values(), key=lambda entry: entry.start):
            if held.start - at >= size:
                return at
            at = held.start + held.size
        return at if self.rows - at >= size else -1

    def _repack(self, last: bytes | None = None) -> None:
        """Move all sessions to the front without gaps; the session `last` ends up last."""
        order = sorted(self._held, key=lambda session: (session == last, self._held[session].start))
        sources, targets, at = [], [], 0
        for session in order:
            held = self._held[session]
            rows = torch.arange(len(held.tokens))
            sources.append(rows + held.start)
            targets.append(rows + at)
            held.start = at
            at += held.size
        if sources:
            self._move(torch.cat(sources), torch.cat(targets))

    def _move(self, sources: torch.Tensor, targets: torch.Tensor) -> None:
        """Copy rows in every layer; old and new rows may overlap, since a layer is gathered before it is written."""
        for keys, values in self._layers.values():
            for store in (keys, values):
                store.index_copy_(0, targets.to(store.device), store.index_select(0, sources.to(store.device)))


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Return zeros; on the CPU without touching the memory, so that an unused budget costs nothing."""
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    size = int(np.prod(shape)) * dtype.itemsize
    return torch.from_numpy(np.zeros(size, dtype=np.uint8)).view(dtype).view(shape)
