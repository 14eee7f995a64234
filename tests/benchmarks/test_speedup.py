"""The speed-up: when a run fails, whose turn it is, and a whole run on a tiny target."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import msgspec
import pytest

from benchmarks.kit.answer import Answer
from benchmarks.kit.comparison import Turn, compare
from benchmarks.kit.drafting import Drafting
from benchmarks.kit.prompts import Prompt
from benchmarks.kit.record import Drafted, Recorded
from benchmarks.kit.timing import Timing
from benchmarks.speedup import OnDevice, Result, Settings, draft_token_ms, main, take_turns, wrong
from schemas.messages import Statistics

if TYPE_CHECKING:
    from pathlib import Path

NOTHING = Statistics(0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
SETTINGS = Settings(
    target="t", dtype="float32", drafter="d", policy="p", broker="b", max_tokens=10, warm_up=0, cores=2, threads=2,
    verifier_threads=2, draft_threads=1,
)  # fmt: skip


def result(*texts: str, dtype: str = "float32") -> Result:
    """What is printed if `generate` writes "right" and the device these texts."""
    right = Answer((1,), "right", Timing(1, 1.0, 1, 1.0, 1))
    turns = [Turn(Prompt("?"), msgspec.structs.replace(right, text=text), NOTHING, right, right) for text in texts]
    return Result(
        **msgspec.structs.asdict(compare(turns)),
        ms_per_draft_token=0.0,
        drafting=Drafting(computed=0, mean_ms_per_draft_token=0, mean_ms_per_round=0),
        sources={},
        settings=msgspec.structs.replace(SETTINGS, dtype=dtype),
    )


def test_time_of_a_draft_token_is_the_median() -> None:
    drafts = [
        Recorded((Drafted(seconds=0.5), Drafted(seconds=0.004)), 1),
        Recorded((), 0),
        Recorded((Drafted(seconds=0.006),), 0),
    ]
    assert draft_token_ms(drafts) == 6.0
    assert draft_token_ms([]) == 0.0


def test_answers_that_are_not_the_targets_are_wrong_in_float32_alone() -> None:
    assert wrong(result("right", "right")) == 0
    assert wrong(result("right", "other", "else")) == 2
    assert wrong(result("right", "other", dtype="bfloat16")) == 0


class Scribe(OnDevice):
    """Writes down who was asked what."""

    def __init__(self, name: str, asked: list[tuple[str, str]]) -> None:
        self.name = name
        self.asked = asked
        self.statistics = NOTHING

    def write(self, prompt: str) -> Answer:
        self.asked.append((self.name, prompt))
        return Answer((), self.name, Timing())


def test_everybody_answers_every_prompt_and_each_begins_in_turn() -> None:
    asked: list[tuple[str, str]] = []
    done: list[None] = []
    device, generate, engine = (Scribe(name, asked) for name in "dge")
    turns = take_turns(device, generate, engine, [Prompt(text) for text in "1234"], lambda: done.append(None))
    assert "".join(name + text for name, text in asked) == "d1g1e1g2e2d2e3d3g3d4g4e4"
    assert [(each.device.text, each.generate.text, each.engine.text) for each in turns] == [("d", "g", "e")] * 4
    assert len(done) == 4


@pytest.mark.timeout(600)
def test_a_run_compares_and_the_texts_are_the_targets(
    tiny_target: Path, tiny_drafter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = tmp_path / "prompts.jsonl"
    lines = [{"prompt": "abc abc abc", "source": "a"}, {"prompt": "1, 2, 3", "source": "b"}, {"prompt": "zzzz"}]
    prompts.write_text("".join(json.dumps(line) + "\n" for line in lines))
    code = main(
        ["--prompts", str(prompts), "--target", str(tiny_target), "--drafter", str(tiny_drafter), "--max-tokens", "16",
         "--policy", "fixed:3", "--warm-up", "1", "--threads", "1", "--json"]
    )  # fmt: skip
    found = json.loads(capsys.readouterr().out)
    assert code == 0
    assert (found["prompts"], found["identical"], found["engine_identical"]) == (3, 3, 3)
    for who in ("device", "generate", "engine"):
        assert found[who]["tokens"] == found["tokens"] > 0, "the warm-up is not counted"
        assert found[who]["tokens_per_second"] > 0
        assert 0 < found[who]["ttft_ms"] < 1e3 * found[who]["seconds"]
    alone = max(found["generate"]["tokens_per_second"], found["engine"]["tokens_per_second"])
    assert found["ratio"] == pytest.approx(found["device"]["tokens_per_second"] / alone, abs=1e-4)
    assert list(found["sources"]) == ["a", "b"]
    assert found["drafting"]["computed"] >= found["drafted"] > 0
    assert found["drafting"]["mean_ms_per_draft_token"] > 0
    assert found["ms_per_draft_token"] > 0
    assert found["drafting"]["mean_ms_per_round"] > 0
    assert found["settings"]["verifier_threads"] == 1


def test_policy_that_is_not_known_is_refused_in_words(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--policy", "never"])
    assert "The draft policy 'never' is not known" in capsys.readouterr().err
