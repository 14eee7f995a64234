"""Rates, ratios and sources of three answers to each prompt."""

from __future__ import annotations

import msgspec

from benchmarks.kit.answer import Answer
from benchmarks.kit.comparison import Turn, by_source, compare
from benchmarks.kit.prompts import Prompt
from benchmarks.kit.timing import Timing
from schemas.messages import Statistics

TOKENS = tuple(range(10))


def answer(seconds: float, tokens: tuple[int, ...] = TOKENS, *, first: tuple[int, float] = (1, 0.5)) -> Answer:
    return Answer(tokens, "text", Timing(len(tokens), seconds, *first, 1))


def turn(device: Answer, generate: Answer, engine: Answer, source: str = "") -> Turn:
    statistics = Statistics(5, len(device.tokens), 4, 8, 6, 1, 0, 0, 0, 0, generated=2)
    return Turn(Prompt("?", source), device, statistics, generate, engine)


def test_ratio_is_to_the_faster_way_over_all_prompts() -> None:
    found = compare(
        [
            turn(answer(1.0), answer(2.0), answer(4.0)),
            turn(answer(3.0), answer(8.0), answer(4.0)),
            turn(answer(1.0), answer(6.0), answer(2.0)),
        ]
    )
    assert (found.device.tokens_per_second, found.device.tokens, found.device.seconds) == (6.0, 30, 5.0)
    assert (found.generate.tokens_per_second, found.engine.tokens_per_second) == (1.875, 3.0)
    assert found.faster == "engine"
    assert found.ratio == 2.0
    assert found.median_ratio == 2.0, "of 4, 4/3 and 2"


def test_decode_ratio_leaves_the_first_tokens_out() -> None:
    found = compare([turn(answer(1.5, first=(4, 0.5)), answer(5.0), answer(5.0, first=(1, 2.0)))])
    assert found.device.decode_tokens_per_second == 6.0
    assert (found.generate.decode_tokens_per_second, found.engine.decode_tokens_per_second) == (2.0, 3.0)
    assert found.decode_ratio == 2.0
    assert (found.device.ttft_ms, found.engine.ttft_ms) == (500.0, 2000.0)


def test_rounds_are_those_of_the_device() -> None:
    found = compare([turn(answer(1.0), answer(2.0), answer(2.0))] * 2)
    assert (found.tokens, found.rounds, found.drafted, found.accepted) == (20, 8, 16, 12)
    assert (found.mean_accepted_length, found.mean_draft_length, found.acceptance_rate) == (2.0, 2.0, 0.75)
    assert (found.generated, found.resends) == (4, 2)


def test_other_tokens_and_other_texts_are_not_identical() -> None:
    right, other = answer(1.0), answer(1.0, (*TOKENS[:-1], 99))
    spelt = msgspec.structs.replace(right, text="tex")
    found = compare([turn(right, right, other), turn(other, right, right), turn(spelt, right, right)])
    assert (found.identical, found.engine_identical) == (1, 2)


def test_sources_are_compared_by_themselves() -> None:
    turns = [
        turn(answer(1.0), answer(2.0), answer(4.0), "math"),
        turn(answer(1.0), answer(3.0), answer(4.0), "text"),
        turn(answer(1.0), answer(9.0), answer(9.0)),
        turn(answer(1.0), answer(4.0), answer(4.0), "math"),
    ]
    found = by_source(turns)
    assert {source: (each.prompts, each.ratio) for source, each in found.items()} == {
        "math": (2, 3.0),
        "text": (1, 3.0),
    }
    assert found["math"] == compare([turns[0], turns[3]])
