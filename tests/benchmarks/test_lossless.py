"""The lossless check over MQTT, on a tiny target; and that it finds what is wrong."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from benchmarks.kit.asking import Written
from benchmarks.lossless import Checked, Kept, check, main
from schemas.messages import GREEDY, Sampling, Statistics
from sled.reference import Reference

if TYPE_CHECKING:
    from pathlib import Path

MAX_TOKENS = 16
NOTHING = Statistics(0, 0, 0, 0, 0, 0, 0, 0, 0, 0)


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("prompts") / "prompts.jsonl"
    texts = ["abc abc abc", "Why is the sky blue?", "1, 2, 3, 1, 2, 3, 1, 2", "¿Qué?", "zzzz"]
    path.write_text("".join(json.dumps({"id": i, "prompt": text}) + "\n" for i, text in enumerate(texts)))
    return path


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, Any]]:
    code = main([*arguments, "--max-tokens", str(MAX_TOKENS), "--json"])
    return code, json.loads(capsys.readouterr().out.splitlines()[-1])


def test_greedy_texts_are_the_targets(
    prompts: Path, tiny_target: Path, tiny_drafter: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, result = run(
        capsys, "--prompts", str(prompts), "--target", str(tiny_target), "--drafter", str(tiny_drafter),
        "--devices", "2",
    )  # fmt: skip
    assert code == 0
    assert (result["prompts"], result["identical"], result["diverged"]) == (5, 5, 0)
    assert result["mean_accepted_length"] >= 1
    assert 0 < result["acceptance_rate"] <= 1


@pytest.mark.timeout(600)
def test_same_seed_gives_the_same_texts_whoever_drafts_and_however_it_is_batched(
    prompts: Path, tiny_target: Path, tiny_drafter: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = (
        "--prompts", str(prompts), "--target", str(tiny_target), "--temperature", "0.8", "--top-p", "0.95",
        "--seed", "11",
    )  # fmt: skip
    ways = [
        ("--drafter", str(tiny_drafter), "--devices", "3"),
        ("--drafter", "lookup", "--devices", "1", "--batching", "dynamic:4:5"),
        ("--drafter", f"lookup+transformers:{tiny_target}", "--devices", "2", "--batching", "static:2:20"),
    ]
    results = [run(capsys, *common, *way) for way in ways]
    assert [code for code, _ in results] == [0, 0, 0]
    assert [result["identical"] for _, result in results] == [5, 5, 5]
    assert len({result["texts"] for _, result in results}) == 1


@pytest.fixture(scope="module")
def reference(tiny_target: Path) -> Reference:
    return Reference(tiny_target, "float32")


def plain(reference: Reference, path: Path | None = None, fingerprint: str = "one") -> Kept:
    return Kept(reference, MAX_TOKENS, fingerprint, path)


def written(reference: Reference, prompt: str = "abc", sampling: Sampling = GREEDY) -> Written:
    tokens, text = reference.write([{"role": "user", "content": prompt}], MAX_TOKENS)
    finish = "stop" if tokens[-1] in reference.end_tokens else "length"
    return Written(prompt, sampling, tokens, text, finish, NOTHING)


def test_right_answer_passes(reference: Reference) -> None:
    assert check(written(reference), reference, plain(reference), MAX_TOKENS, "float32") == Checked(
        0, 0, identical=True
    )


def test_one_wrong_token_is_found(reference: Reference) -> None:
    answer = written(reference)
    wrong = (*answer.tokens[:3], (answer.tokens[3] + 1) % 256, *answer.tokens[4:])
    found = check(msgspec.structs.replace(answer, tokens=wrong), reference, plain(reference), MAX_TOKENS, "float32")
    assert found.diverged >= 1
    assert not found.identical


def test_greedy_text_is_no_sampled_one(reference: Reference) -> None:
    found = check(
        written(reference, sampling=Sampling(1.5, seed=3)), reference, plain(reference), MAX_TOKENS, "float32"
    )
    assert found.diverged >= 1


@pytest.mark.parametrize(("cut", "finish"), [(4, "length"), (4, "stop"), (MAX_TOKENS, "stop")])
def test_wrong_end_is_found(reference: Reference, cut: int, finish: str) -> None:
    answer = written(reference, "zzzz")
    assert len(answer.tokens) == MAX_TOKENS, "this prompt's answer must not end by itself"
    answer = msgspec.structs.replace(answer, tokens=answer.tokens[:cut], finish=finish)
    assert check(answer, reference, plain(reference), MAX_TOKENS, "float32").diverged == 1


def test_text_that_is_not_that_of_the_tokens_is_not_identical(reference: Reference) -> None:
    answer = msgspec.structs.replace(written(reference), text="something else")
    assert not check(answer, reference, plain(reference), MAX_TOKENS, "float32").identical


def test_what_the_target_writes_alone_is_kept_for_that_target(reference: Reference, tmp_path: Path) -> None:
    path = tmp_path / "alone.jsonl"
    tokens = plain(reference, path)("abc")
    path.write_text(path.read_text().replace(str(tokens[0]), "999", 1))
    assert plain(reference, path)("abc")[0] == 999
    assert plain(reference, path, "two")("abc") == tokens


def test_missing_prompts_file_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--prompts", str(tmp_path / "nothing")]) == 1
    assert "nothing" in capsys.readouterr().err
