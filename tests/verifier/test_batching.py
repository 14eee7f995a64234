"""Batching policies as they are written on the command line."""

from __future__ import annotations

import pytest

from verifier.batching import parse_batching
from verifier.gathering import DYNAMIC_WAIT, STATIC_WAIT, Dynamic, Static
from verifier.scheduler import Batching, Continuous


@pytest.mark.parametrize(
    ("text", "batching"),
    [
        ("continuous", Continuous()),
        (" continuous:64 ", Continuous(64)),
        ("static:16", Static(16, STATIC_WAIT)),
        ("static:16:250", Static(16, 0.25)),
        ("dynamic:8", Dynamic(8, DYNAMIC_WAIT)),
        ("dynamic:8:7.5", Dynamic(8, 0.0075)),
    ],
)
def test_parse_batching(text: str, batching: Batching) -> None:
    assert parse_batching(text) == batching


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("", "The batching policy '' is not known; write continuous"),
        ("static", "'static' is not known"),
        ("dynamic", "'dynamic' is not known"),
        ("static:8:20:1", "is not known"),
        ("continuous:8:9", "is not known"),
        ("greedy:8", r"write continuous, .* \(static:16:500\)"),
        ("static:many", "'many' should be a whole number, as in static:16"),
        ("dynamic:8:soon", "'soon' should be a number of milliseconds"),
        ("static:0", "A static batch has at least 1 bundle, but 0"),
        ("dynamic:4:-1", "waits for 0 seconds or more"),
        ("dynamic:4:nan", "waits for 0 seconds or more"),
        ("continuous:0", "at least 1 token"),
    ],
)
def test_parse_batching_says_what_is_wrong(text: str, wrong: str) -> None:
    with pytest.raises(ValueError, match=wrong):
        parse_batching(text)
