"""Which texts are trained on and which are judged by."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from edge_agent.tokenizer import ChatTokenizer
from models.distill.answers import Start, write
from models.distill.corpus import Corpus
from models.distill.material import Gathering, Material
from models.distill.options import Options
from models.distill.student_folder import VOCABULARY
from models.error import ModelError
from models.progress import silent
from tests.models.distill.targets import write_prompts
from tests.models.tiny import LONGEST, save_llama
from verifier.engine.load import load_engine

if TYPE_CHECKING:
    from pathlib import Path

    from models.distill.texts import Text
    from models.progress import Progress


class Library:
    """A tiny target that was loaded once."""

    def __init__(self, target: Path) -> None:
        self._target = target
        self._tokenizer = ChatTokenizer.load(target)
        self.engine = load_engine(target, dtype="float32", device="cpu", kv_budget_bytes=1 << 24, threads=1)

    def gather(self, work: Path, *, progress: Progress = silent, **options: Any) -> Material:
        """Texts, six of them unless told otherwise."""
        work.mkdir(exist_ok=True)
        chosen = Options(**({"texts": 6, "batch": 4} | options))
        return Gathering(self.engine, self._target, self._tokenizer, work, chosen, progress).run()

    def prompts(self, texts: list[Text]) -> set[str]:
        """What was asked, in small letters."""
        return {self._tokenizer.decode(text.ids[: text.prompt].tolist()).strip().lower() for text in texts}


@pytest.fixture(scope="module")
def library(llama: Path) -> Library:
    """Of a tiny llama."""
    return Library(llama)


def test_evaluation_prompts_are_not_trained_on(library: Library, tmp_path: Path) -> None:
    training = write_prompts(tmp_path / "training.jsonl", ["apple", "pear", "plum", "fig"])
    evaluation = write_prompts(tmp_path / "evaluation.jsonl", ["Plum ", "cherry"])
    steps: list[str] = []
    material = library.gather(
        tmp_path / "work",
        prompts=training,
        evaluation=evaluation,
        progress=lambda step, done, total: steps.append(step),
    )
    assert library.prompts(material.training + material.held_out) == {"apple", "pear", "fig"}
    assert library.prompts(material.evaluation) == {"plum", "cherry"}
    (warning,) = material.warnings
    assert warning.startswith("1 of the 4 training prompts are among the 2 evaluation prompts")
    assert steps.index(f"Warning: {warning}") < steps.index("Writing answers")


def test_evaluation_on_the_training_prompts_is_refused(library: Library, tmp_path: Path) -> None:
    both = write_prompts(tmp_path / "prompts.jsonl", ["apple", "pear"])
    with pytest.raises(ModelError, match=r"All 2 prompts .* cannot be judged by what it was trained on"):
        library.gather(tmp_path / "work", prompts=both, evaluation=both)


def test_texts_of_an_earlier_run_are_left_out_where_they_are_evaluation_prompts_now(
    library: Library, tmp_path: Path
) -> None:
    work = tmp_path / "work"
    training = write_prompts(tmp_path / "training.jsonl", ["apple", "pear", "plum", "fig"])
    assert len(library.gather(work, prompts=training).training) == 3
    evaluation = write_prompts(tmp_path / "evaluation.jsonl", ["plum", "fig"])
    steps: list[str] = []
    material = library.gather(
        work, evaluation=evaluation, texts=4, progress=lambda step, done, total: steps.append(step)
    )
    assert library.prompts(material.training + material.held_out) == {"apple", "pear"}
    (warning,) = material.warnings
    assert warning.startswith("2 of the 4 training texts were answers to evaluation prompts")
    assert f"Warning: {warning}" in steps
    everything = write_prompts(tmp_path / "everything.jsonl", ["apple", "pear", "plum", "fig"])
    with pytest.raises(ModelError, match=r"All 4 texts in .*work are answers to prompts of"):
        library.gather(work, evaluation=everything, texts=4)


def test_texts_of_an_earlier_run_are_left_out_whatever_their_case_and_blanks(library: Library, tmp_path: Path) -> None:
    work = tmp_path / "work"
    training = write_prompts(tmp_path / "training.jsonl", ["apple", "pear", "Red  plum", "fig"])
    library.gather(work, prompts=training)
    evaluation = write_prompts(tmp_path / "evaluation.jsonl", ["red plum ", "FIG"])
    material = library.gather(work, evaluation=evaluation, texts=4)
    assert library.prompts(material.training + material.held_out) == {"apple", "pear"}


def test_writing_ends_in_time_where_answers_are_short(library: Library) -> None:
    starts = [Start((at,), 3) for at in range(50)]
    assert len(list(write(library.engine, starts, batch=1, stop=lambda: True))) == 1


def test_the_bar_counts_to_the_prompts_there_are(library: Library, tmp_path: Path) -> None:
    prompts = write_prompts(tmp_path / "prompts.jsonl", ["apple", "pear", "plum"])
    shown: list[tuple[int, int | None]] = []

    def progress(step: str, done: int, total: int | None) -> None:
        if step == "Writing answers":
            shown.append((done, total))

    for _ in range(2):  # the second time, all are written already
        library.gather(tmp_path / "work", prompts=prompts, progress=progress)
    assert {total for _, total in shown} == {3}
    assert shown[-1] == (3, 3)


def test_prompts_as_long_as_the_context_are_refused(library: Library, tmp_path: Path) -> None:
    long = write_prompts(tmp_path / "long.jsonl", ["x" * LONGEST, "y" * LONGEST])
    short = write_prompts(tmp_path / "short.jsonl", ["apple", "pear"])
    choices: list[dict[str, Any]] = [{"prompts": long}, {"prompts": short, "evaluation": long}]
    for number, chosen in enumerate(choices):
        with pytest.raises(ModelError, match=r"Each prompt of .*long\.jsonl fills the target's context of 600 tokens"):
            library.gather(tmp_path / f"work-{number}", **chosen)


def test_answers_longer_than_the_context_are_refused(library: Library, tmp_path: Path) -> None:
    prompts = write_prompts(tmp_path / "prompts.jsonl", ["apple", "pear"])
    answers = tmp_path / "answers.jsonl"
    answers.write_text('{"id": 0, "answer": "red"}\n{"id": 1, "answer": "green"}\n')
    with pytest.raises(ModelError, match="Each of the 2 answers is, with its prompt, longer than the 5 tokens"):
        library.gather(tmp_path / "work", prompts=prompts, answers=answers, context=5)


def test_prompts_that_were_thought_up_are_not_thought_up_again(library: Library, tmp_path: Path) -> None:
    library.gather(tmp_path / "work", texts=3)
    first = Corpus(tmp_path / "work" / "texts.jsonl").texts
    library.gather(tmp_path / "work", texts=6)
    more = Corpus(tmp_path / "work" / "texts.jsonl").texts
    assert len(first) == 3
    assert len(more) == len({text.ids[: text.prompt].tobytes() for text in more}) == 6


def test_a_run_with_a_time_writes_on_unless_the_texts_were_complete(library: Library, tmp_path: Path) -> None:
    work = tmp_path / "work"
    library.gather(work, texts=2)
    (work / VOCABULARY).touch()
    assert len(library.gather(work, minutes=1000, texts=5).training) == 1  # and the other one held out
    (work / VOCABULARY).unlink()
    assert len(library.gather(work, minutes=1000, texts=5).training) == 4


def test_given_answers_are_trained_on(library: Library, tmp_path: Path) -> None:
    prompts = write_prompts(tmp_path / "prompts.jsonl", ["apple", "pear", "plum"])
    answers = tmp_path / "answers.jsonl"
    answers.write_text(
        '{"id": 0, "answer": "red"}\n{"id": 2, "answer": "blue", "finished": false}\n{"id": 9, "answer": "x"}\n'
    )
    material = library.gather(tmp_path / "work", prompts=prompts, answers=answers)
    texts = {bytes(text.answer.tolist()[:3]): text for text in material.training + material.held_out}
    assert len(texts) == 2
    assert sorted(len(text.answer) for text in texts.values()) == [4, 4]  # "red" and its end, "blue" without
    assert not (tmp_path / "work" / "texts.jsonl").exists()
    with pytest.raises(ModelError, match="without the prompts"):
        library.gather(tmp_path / "work", answers=answers)


def test_a_given_answer_ends_with_the_one_of_several_end_tokens_that_the_tokenizer_names(tmp_path: Path) -> None:
    target = save_llama(tmp_path / "target")
    for name in ("config.json", "generation_config.json"):
        settings = json.loads((target / name).read_text())
        (target / name).write_text(json.dumps(settings | {"eos_token_id": [250, 256, 300]}))
    prompts = write_prompts(tmp_path / "prompts.jsonl", ["apple", "pear"])
    answers = tmp_path / "answers.jsonl"
    answers.write_text('{"id": 0, "answer": "red"}\n{"id": 1, "answer": "green"}\n')
    for named, end in (("<end>", 256), ("a", 250)):  # the latter ends no text of this target
        settings = json.loads((target / "tokenizer_config.json").read_text())
        (target / "tokenizer_config.json").write_text(json.dumps(settings | {"eos_token": named}))
        material = Library(target).gather(tmp_path / "work", prompts=prompts, answers=answers)
        assert {int(text.ids[-1]) for text in material.training + material.held_out} == {end}
