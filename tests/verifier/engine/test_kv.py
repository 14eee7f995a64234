"""The store of keys and values: ranges, growth, repacking, eviction."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from verifier.engine.errors import EngineError
from verifier.engine.kv import KVStore, LayerShape

LAYOUT = {0: LayerShape(1, 2, 3, torch.float32), 1: LayerShape(2, 1, 1, torch.bfloat16)}
ROW_BYTES = 5 * 4 + 4 * 2


def _store(rows: int, block: int = 4) -> KVStore:
    return KVStore(LAYOUT, budget_bytes=rows * ROW_BYTES, device=torch.device("cpu"), block_tokens=block)


def _write(store: KVStore, session: bytes, tokens: list[int]) -> None:
    """Write each token's id as its keys and values."""
    rows = slice(store.start(session), store.start(session) + len(tokens))
    for index in LAYOUT:
        for part in store.layer(index):
            part[rows] = torch.tensor(tokens, dtype=part.dtype)[:, None, None]
    store.commit(session, np.array(tokens, dtype=np.int32))


def _assert_holds(store: KVStore, session: bytes, tokens: list[int]) -> None:
    assert store.tokens(session).tolist() == tokens
    if not tokens:
        return
    rows = slice(store.start(session), store.start(session) + len(tokens))
    for index in LAYOUT:
        for part in store.layer(index):
            assert bool((part[rows] == torch.tensor(tokens, dtype=part.dtype)[:, None, None]).all())


@pytest.mark.parametrize("seed", range(20))
def test_a_random_life_never_mixes_sessions_up(seed: int) -> None:
    """Whatever grows, shrinks, leaves and is evicted: what is held is what was written, and the budget holds."""
    chance = random.Random(seed)
    store = _store(64)
    held: dict[bytes, list[int]] = {}
    for _ in range(150):
        names = chance.sample([bytes([n]) for n in range(9)], chance.randint(1, 3))
        if chance.random() < 0.1:
            store.drop(names[0], wipe=chance.random() < 0.5)
            held.pop(names[0], None)
            continue
        lengths = {name: chance.randint(1, 20) for name in names}
        keep = {name: min(len(store.tokens(name)), chance.randint(0, n - 1)) for name, n in lengths.items()}
        store.reserve(lengths, keep)
        for name in list(held):
            if name not in lengths and not len(store.tokens(name)):
                del held[name]
        for name, length in lengths.items():
            kept = held.get(name, [])[: keep[name]]
            _assert_holds(store, name, kept)
            held[name] = kept + [chance.randrange(100) for _ in range(length - len(kept))]
            _write(store, name, held[name])
        for name, tokens in held.items():
            _assert_holds(store, name, tokens)
        assert store.sessions == len(held)
        assert store.used_bytes <= store.budget_bytes
        assert store.used_bytes == ROW_BYTES * sum(-(-len(tokens) // 4) * 4 for tokens in held.values())
    assert store.evictions > 0


def test_a_step_beyond_the_budget_is_refused_and_changes_nothing() -> None:
    """The error names what is needed and what there is."""
    store = _store(16)
    store.reserve({b"a": 4}, {b"a": 0})
    _write(store, b"a", [1, 2, 3, 4])
    with pytest.raises(EngineError, match=rf"2 sessions needs {20 * ROW_BYTES} bytes.*{16 * ROW_BYTES} bytes"):
        store.reserve({b"a": 9, b"b": 5}, {b"a": 1, b"b": 0})
    _assert_holds(store, b"a", [1, 2, 3, 4])
    assert store.sessions == 1


def test_a_budget_below_one_block_is_refused() -> None:
    """At once, not at the first step."""
    with pytest.raises(EngineError, match="holds no block of 4 tokens"):
        _store(3)


def test_dropped_rows_are_wiped_on_request() -> None:
    """So that a NaN cannot be read under a neighbour's mask."""
    store = _store(8)
    store.reserve({b"a": 4}, {b"a": 0})
    _write(store, b"a", [1, 2, 3, 4])
    store.drop(b"a", wipe=True)
    assert not any(bool(part.any()) for index in LAYOUT for part in store.layer(index))
