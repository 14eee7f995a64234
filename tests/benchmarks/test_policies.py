"""The comparison of draft policies: its arithmetic, and a whole run on a tiny target through the slow link."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from benchmarks.kit.asking import Written
from benchmarks.kit.drafting import Drafting
from benchmarks.kit.timing import Timing
from benchmarks.policies import Result, Round, Settings, main, summarise, wrong
from schemas.messages import GREEDY, Statistics

if TYPE_CHECKING:
    from pathlib import Path

SETTINGS = Settings(
    target="t", dtype="float32", drafter="d", broker="b", max_tokens=8, warm_up=0, cores=2, threads=2, draft_threads=1
)
TOKENS = tuple(range(8))


def written(seconds: float, tokens: tuple[int, ...] = TOKENS, *, rounds: int = 4) -> Written:
    statistics = Statistics(5, len(tokens), rounds, 10, 4, 1, 0, 0, 0, 0)
    return Written("?", GREEDY, tokens, "", "length", statistics, Timing(len(tokens), seconds, 2, 0.5, 1))


def drafting(computed: int) -> Drafting:
    return Drafting(computed=computed, mean_ms_per_draft_token=1.0, mean_ms_per_round=2.0)


def seen(round_trip: float, a: list[Written], b: list[Written]) -> Round:
    return Round(round_trip, {"a": a, "b": b}, {"a": drafting(1), "b": drafting(2)})


def test_ratios_are_to_the_first_policy_at_the_same_round_trip_time() -> None:
    rows = summarise(
        [
            seen(5.0, [written(1.0), written(3.0)], [written(2.0, rounds=8), written(6.0, rounds=8)]),
            seen(50.0, [written(4.0), written(4.0)], [written(1.0), written(3.0)]),
        ]
    )
    assert [(row.round_trip_ms, row.policy) for row in rows] == [(5.0, "a"), (5.0, "b"), (50.0, "a"), (50.0, "b")]
    assert [row.tokens_per_second for row in rows] == [4.0, 2.0, 2.0, 4.0]
    assert [row.ratio for row in rows] == [1.0, 0.5, 1.0, 2.0]
    assert rows[3].median_ratio == pytest.approx((4 + 4 / 3) / 2, abs=1e-4)
    assert [row.mean_accepted_length for row in rows] == [2.0, 1.0, 2.0, 2.0]
    assert (rows[1].mean_draft_length, rows[1].acceptance_rate, rows[1].resends) == (1.25, 0.4, 2)
    assert (rows[0].ttft_ms, rows[0].decode_tokens_per_second) == (500.0, 4.0)
    assert [row.drafting.computed for row in rows] == [1, 2, 1, 2]


def test_an_answer_that_depends_on_the_policy_is_found() -> None:
    other = (*TOKENS[:-1], 99)
    same = [written(1.0), written(1.0)]
    rows = summarise([seen(5.0, same, same), seen(50.0, same, [written(1.0), written(1.0, other)])])
    assert [row.texts for row in rows] == [2, 2, 2, 1]
    assert wrong(Result(prompts=2, rows=rows, settings=SETTINGS)) == 1
    assert wrong(Result(prompts=2, rows=rows[:3], settings=SETTINGS)) == 0


@pytest.mark.timeout(600)
def test_a_run_compares_policies_through_the_slow_link(
    tiny_target: Path, tiny_drafter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"prompt": "abc abc abc"}\n{"prompt": "1, 2, 3"}\n')
    code = main(
        ["--policies", "cost-aware", "fixed:2", "--round-trips", "1", "40", "--prompts", str(prompts), "--target",
         str(tiny_target), "--drafter", str(tiny_drafter), "--max-tokens", "12", "--warm-up", "1", "--threads", "1",
         "--json"]
    )  # fmt: skip
    found = json.loads(capsys.readouterr().out)
    assert code == 0
    rows = found["rows"]
    assert [(row["round_trip_ms"], row["policy"]) for row in rows] == [
        (1.0, "cost-aware"), (1.0, "fixed:2"), (40.0, "cost-aware"), (40.0, "fixed:2"),
    ]  # fmt: skip
    assert [row["texts"] for row in rows] == [2] * 4
    assert len({row["tokens"] for row in rows}) == 1
    for row in rows:
        assert row["rounds"] > 0
        # A round is a bundle there and a verdict back; those sent again are not among them.
        assert row["drafting"]["mean_ms_per_round"] >= row["round_trip_ms"] or row["resends"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--policies", "never"], "The draft policy 'never' is not known"),
        (["--policies", "fixed:2", "fixed:2"], "named twice"),
        (["--round-trips", "-1"], "-1"),
    ],
)
def test_options_that_make_no_sense_are_refused_in_words(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(arguments)
    assert words in capsys.readouterr().err
