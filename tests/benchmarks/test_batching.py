"""The comparison of batching policies: its devices, its arithmetic, and a whole run on a tiny target."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from benchmarks.batching import main, summarise
from benchmarks.kit.counted_verifier import Work
from benchmarks.kit.scripted_devices import ScriptedDrafter, Text, Turn
from schemas.messages import Statistics

if TYPE_CHECKING:
    from pathlib import Path

TEXTS = [Text("a", (1, 2), tuple(range(100, 1100))), Text("b", (1, 3), tuple(range(200, 1200)))]


def test_the_drafter_is_right_as_often_as_it_should_be_and_always_at_the_same_places() -> None:
    drafter = ScriptedDrafter(TEXTS, 5000, 0.8, 0.0)
    proposals = [drafter.propose((1, 3, *range(200, 200 + at))) for at in range(1000)]
    right = [proposal is not None and proposal.token == 200 + at for at, proposal in enumerate(proposals)]
    assert 760 <= sum(right) <= 840
    again = ScriptedDrafter(TEXTS, 5000, 0.8, 0.0)
    assert proposals == [again.propose((1, 3, *range(200, 200 + at))) for at in range(1000)]


def test_the_drafter_goes_on_by_place_after_a_draft_of_its_own_that_was_wrong() -> None:
    drafter = ScriptedDrafter(TEXTS, 5000, 1.0, 0.0)
    proposal = drafter.propose((1, 2, 100, 4999, 102))
    assert proposal is not None
    assert proposal.token == 103


def test_the_drafter_has_nothing_to_propose_beyond_its_texts() -> None:
    drafter = ScriptedDrafter(TEXTS, 5000, 1.0, 0.0)
    assert drafter.propose((1, 2, *range(100, 1100))) is None
    assert drafter.propose((9, 9)) is None


def test_a_wrong_token_is_in_the_vocabulary() -> None:
    drafter = ScriptedDrafter([Text("a", (1,), (7, 7))], 8, 0.0, 0.0)
    proposal = drafter.propose((1,))
    assert proposal is not None
    assert proposal.token == 0


def turn(tokens: int, *, work: Work, tpot_ms: tuple[int, ...]) -> Turn:
    seen = Turn(tokens, 10.0, work=work)
    for each in tpot_ms:
        ttft = 500_000
        seen.add(Statistics(9, 11, 4, 12, 8, 1, ttft, ttft + 10 * each * 1000, 0, 0))
    return seen


def test_summarise() -> None:
    first, other = summarise(
        {
            "continuous": [
                turn(1000, work=Work(10, 40, 200), tpot_ms=(100, 200)),
                turn(500, work=Work(10, 60, 400), tpot_ms=(300,)),
                turn(600, work=Work(), tpot_ms=()),
            ],
            "static:2": [
                turn(500, work=Work(5, 10, 50), tpot_ms=(400,)),
                turn(500, work=Work(5, 10, 50), tpot_ms=(600,)),
                turn(480, work=Work(5, 10, 50), tpot_ms=(500,)),
            ],
        },
        tokens=11,
    )
    assert first.tokens_per_second == 60.0
    assert first.rate_ratio == 1.0
    assert other.rate_ratio == 0.8, "the median of 0.5, 1.0 and 0.8: turn by turn"
    assert (first.tpot_p50_ms, first.tpot_mean_ms) == pytest.approx((200, 200))
    assert other.tpot_p95_ms == pytest.approx(590)
    assert first.ttft_p50_ms == 500
    assert (first.bundles_per_step, first.fed_per_step) == (5.0, 30.0)
    assert first.tokens_per_round == 11 / 4
    assert (first.requests, first.resends) == (3, 3)


def test_work_since() -> None:
    assert Work(9, 20, 90).since(Work(4, 10, 50)) == Work(5, 10, 40)


@pytest.mark.timeout(240)
def test_a_run_measures_every_policy(tiny_target: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = "--policies continuous static:3:50 dynamic:2:20 --devices 3 --draft-ms 1 4 --tokens 8 --texts 3"
    measured = "--requests 2 --repetitions 1 --threads 1 --json"
    assert main(["--target", str(tiny_target), *arguments.split(), *measured.split()]) == 0
    results = json.loads(capsys.readouterr().out)
    assert [result["batching"] for result in results] == ["continuous", "static:3:50", "dynamic:2:20"]
    for result in results:
        assert result["tokens_per_second"] > 0
        assert 3 <= result["requests"] <= 3 * 2 + 3, "those asked while it was counted"
        assert 1 <= result["bundles_per_step"] <= 3
        assert 1 < result["tokens_per_round"] <= 8, "the drafter knows the target's texts"


def test_a_policy_that_is_not_known_is_refused_in_words(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--policies", "greedy:4"])
    assert "The batching policy 'greedy:4' is not known" in capsys.readouterr().err
