"""Known texts, written again on a virtual clock."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

import pytest

from benchmarks import replay
from benchmarks.kit.virtual import Costs, Text, VirtualDevice
from edge_agent.drafters.drafter import DrafterError, Proposal
from edge_agent.policy import FixedLength
from schemas.messages import GREEDY

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from edge_agent.drafters.drafter import Drafter
    from schemas.messages import Sampling
    from verifier.engine.segment import Segment

PROMPT = (7, 8, 9)
END = 0
COSTS = Costs(step=10.0, position=1.0, reading=2.0)
ROUND_TRIP = 100.0


class Knowing:
    """Proposes the text's own next token, but a wrong one at some positions; may take its time."""

    name = "knowing"
    vocab_size = 50
    context_length = 1000

    def __init__(self, answer: Sequence[int], *, wrong: Sequence[int] = (), seconds: float = 0.0) -> None:
        self._answer = answer
        self._wrong = wrong
        self._seconds = seconds

    def propose(self, tokens: Sequence[int], sampling: Sampling = GREEDY, position: int = 0) -> Proposal | None:
        time.sleep(self._seconds)
        at = len(tokens) - len(PROMPT)
        if at >= len(self._answer):
            return None
        return Proposal(49 if at in self._wrong else self._answer[at], 0.9)


class Broken(Knowing):
    def propose(self, tokens: Sequence[int], sampling: Sampling = GREEDY, position: int = 0) -> Proposal | None:
        raise DrafterError("the file is damaged")


def device(drafter: Drafter, length: int = 4) -> VirtualDevice:
    return VirtualDevice(
        drafter, FixedLength(length), COSTS, round_trip=ROUND_TRIP, vocab_size=50, end_tokens=frozenset({END})
    )


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize("wrong", [(), (0,), (3,), (1, 2, 9), tuple(range(20))])
@pytest.mark.parametrize("length", [1, 4, 30])
def test_time_is_round_trips_steps_and_what_was_drafted(*, finished: bool, wrong: tuple[int, ...], length: int) -> None:
    answer = (*range(1, 20), END if finished else 20)
    seen = device(Knowing(answer, wrong=wrong), length).write(Text(PROMPT, answer, finished))
    assert seen.tokens == len(answer)
    by_end_token = finished and 19 not in wrong and seen.tokens < seen.rounds + seen.accepted
    assert seen.tokens == seen.rounds + seen.accepted - by_end_token
    sent = COSTS.position * seen.drafted
    expected = seen.rounds * (ROUND_TRIP + COSTS.step) + COSTS.reading * len(PROMPT) + sent
    assert seen.seconds >= expected - 1e-6
    assert seen.seconds == pytest.approx(expected, abs=COSTS.position * 31)  # what the end cut off was sent too
    assert seen.alone == COSTS.reading * 3 + COSTS.step * 20


def test_first_round_brings_one_token_and_four_are_right_from_then_on() -> None:
    answer = tuple(range(1, 27))
    seen = device(Knowing(answer)).write(Text(PROMPT, answer, finished=False))
    assert (seen.rounds, seen.accepted) == (6, 20)


def test_drafting_takes_the_time_it_takes() -> None:
    answer = tuple(range(1, 9))
    costs = Costs(0.0, 0.0, 0.0)
    drafter = Knowing(answer, wrong=range(8), seconds=0.01)
    slow = VirtualDevice(drafter, FixedLength(2), costs, round_trip=0.02, vocab_size=50, end_tokens=frozenset())
    seen = slow.write(Text(PROMPT, answer, finished=False))
    assert seen.rounds == 8
    assert seen.seconds >= 8 * 0.02 + 5 * 2 * 0.01, "but for the first and the last, rounds wait for their tokens"
    assert all(source == "knowing" and took >= 0.01 for source, took in seen.draft_times)


def test_without_a_drafter_the_target_writes_on_by_itself() -> None:
    """One token first, then in runs of eight behind the one that every round brings."""
    answer = tuple(range(1, 20))
    seen = device(Broken(answer)).write(Text(PROMPT, answer, finished=False))
    assert (seen.rounds, seen.drafted, seen.generated, seen.draft_times) == (3, 0, 16, ())
    assert seen.seconds == pytest.approx(3 * ROUND_TRIP + 19 * COSTS.step + 3 * COSTS.reading, abs=0.1)


class Engine:
    """Takes so long for a step as it has tokens to feed and to choose; remembers what it was fed."""

    context_length = 512

    def __init__(self) -> None:
        self.held: tuple[int, ...] = ()
        self.steps: list[tuple[int, int]] = []
        self.seconds = 0.0

    def step(self, segments: Sequence[Segment]) -> list[list[int]]:
        (segment,) = segments
        tokens = tuple(segment.tokens)
        same = next((at for at, pair in enumerate(zip(tokens, self.held, strict=False)) if pair[0] != pair[1]), None)
        keep = min(len(self.held) if same is None else same, len(tokens) - segment.choose)
        self.held = tokens
        self.steps.append((len(tokens) - keep, segment.choose))
        self.seconds += 0.001 * (len(tokens) - keep) + 0.002
        return [[0] * segment.choose]

    def release(self, session: bytes) -> None:
        self.held = ()


def test_costs_are_of_one_token_of_each_further_one_and_of_each_of_a_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine()
    monkeypatch.setattr("benchmarks.replay.time.perf_counter", lambda: engine.seconds)
    costs = replay.measure_costs(engine, Text(PROMPT, tuple(range(1, 30)), finished=False))  # type: ignore[arg-type]
    assert {(1, 1), (9, 9), (256, 1)} <= set(engine.steps)
    assert costs.step == pytest.approx(0.003)
    assert costs.position == pytest.approx(0.001)
    assert costs.reading == pytest.approx((0.256 + 0.002) / 256)


def test_command(tiny_target: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every answer is the target's own, or it would raise."""
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"prompt": "one", "source": "a"}\n{"prompt": "two", "source": "b"}\n{"prompt": "three"}\n')
    arguments = [
        "--prompts", str(prompts), "--target", str(tiny_target), "--drafter", f"transformers:{tiny_target}",
        "--max-tokens", "21", "--policies", "fixed:4", "cost-aware", "--round-trips", "5", "50", "--warm-up", "1",
        "--threads", "1",
    ]  # fmt: skip
    assert replay.main([*arguments, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    found = result["rows"]
    assert [(row["round_trip_ms"], row["policy"], row["source"]) for row in found] == [
        (trip, policy, source) for trip in (5, 50) for policy in ("fixed:4", "cost-aware") for source in ("", "a", "b")
    ]
    assert all(row["acceptance_rate"] > 0.3 for row in found), "the drafter is the target"
    assert len({tuple(row["tokens"] for row in found[at : at + 3]) for at in range(0, len(found), 3)}) == 1
    for at in range(0, len(found), 3):
        assert found[at]["prompts"] == 3
        assert found[at]["tokens"] >= found[at + 1]["tokens"] + found[at + 2]["tokens"]
    for row in found:  # whatever else this machine had to do: each round takes a round trip
        at_most = row["tokens"] / (row["rounds"] * row["round_trip_ms"] / 1e3)
        assert 0 < row["tokens_per_second"] < 1.01 * at_most
    assert replay.main(arguments) == 0
    assert "round-trip time 50 ms" in capsys.readouterr().out
