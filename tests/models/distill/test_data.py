"""Prompts, answers, vocabularies and batches."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.tokenizer import ChatTokenizer
from models.distill.answers import ids_of
from models.distill.batches import collate, plan_epoch
from models.distill.corpus import Corpus, split
from models.distill.student_folder import load_vocabulary, save_vocabulary
from models.distill.texts import Prompt, Text, overlap, read_answers, read_prompts, shared_prefix
from models.distill.vocabulary import choose_tokens, find_stand_ins
from models.error import ModelError
from tests.models.distill.targets import random_texts
from tests.models.tiny import save_tokenizer

if TYPE_CHECKING:
    from pathlib import Path


def prompts_of(texts: list[Text]) -> set[bytes]:
    return {text.ids[: text.prompt].tobytes() for text in texts}


def test_prompts_come_as_jsonl_or_as_lines(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"id": 7, "prompt": "Hi", "source": "x", "more": 1}\n\n')
    (tmp_path / "b.txt").write_text("Hi\n\n\u00a0\nHo\n")
    assert read_prompts(tmp_path / "a.jsonl") == [Prompt(7, "Hi", "x")]
    assert [prompt.prompt for prompt in read_prompts(tmp_path / "b.txt")] == ["Hi", "Ho"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"id": 1}\n', "Line 1 of .* cannot be used .*id, prompt, source"),
        ("\n", "is empty"),
        ('\n{"id": 1, "prompt": " \\n"}\n', "Line 2 of .*the prompt is blank"),
        ('{"id": 1, "prompt": "a"}\n{"id": 1, "prompt": "b"}\n', "same id"),
    ],
)
def test_damaged_prompts_are_named(tmp_path: Path, content: str, words: str) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text(content)
    with pytest.raises(ModelError, match=words):
        read_prompts(path)


@pytest.mark.parametrize(
    ("template", "words"),
    [("{{ raise_exception('no') }}", "cannot be put to the target .*no"), ("{{ '' }}", "holds nothing that")],
)
def test_a_prompt_that_cannot_be_put_to_the_target_is_named(tmp_path: Path, template: str, words: str) -> None:
    save_tokenizer(tmp_path)
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings | {"chat_template": template}))
    with pytest.raises(ModelError, match=f"The prompt 'seven' {words}"):
        ids_of(Prompt("seven", "Hi"), ChatTokenizer.load(tmp_path))


def test_missing_answers_are_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"none\.jsonl cannot be read"):
        read_answers(tmp_path / "none.jsonl")


def test_overlap_ignores_case_and_blanks() -> None:
    training = [Prompt(1, "How  are\nyou?"), Prompt(2, "Who?")]
    assert overlap(training, [Prompt(9, "how are you?")]) == {1}


def test_shared_prefix_ends_where_texts_differ_or_a_prompt_ends() -> None:
    texts = random_texts(8)
    assert shared_prefix(texts) == 3
    assert shared_prefix(texts[:1]) == texts[0].prompt - 1
    assert shared_prefix([]) == 0


def test_corpus_survives_a_cut_off_line(tmp_path: Path) -> None:
    path = tmp_path / "texts.jsonl"
    texts = random_texts(3)
    Corpus(path).add(texts)
    path.write_bytes(path.read_bytes()[:-4])
    corpus = Corpus(path)
    assert [text.ids.tolist() for text in corpus.texts] == [text.ids.tolist() for text in texts[:2]]
    corpus.add(texts[2:])
    again = Corpus(path).texts
    assert [(text.ids.tolist(), text.prompt) for text in again] == [(text.ids.tolist(), text.prompt) for text in texts]


def test_corpus_damaged_in_the_middle_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "texts.jsonl"
    Corpus(path).add(random_texts(2))
    path.write_bytes(b"x" + path.read_bytes())
    with pytest.raises(ModelError, match=r"Line 1 of .* is damaged"):
        Corpus(path)


def test_split_keeps_answers_of_a_prompt_together() -> None:
    texts = random_texts(30)
    twice = [*texts, *(Text(np.append(text.ids, 9).astype(np.int32), text.prompt) for text in texts)]
    training, held = split(twice, seed=0)
    assert len(held) >= 2
    assert len(training) + len(held) == 60
    assert not prompts_of(training) & prompts_of(held)


@given(st.integers(2, 120), st.integers(0, 4))
def test_split_leaves_something_on_both_sides(count: int, seed: int) -> None:
    training, held = split(random_texts(count, seed=seed), seed=seed)
    assert training
    assert held


def test_split_holds_out_about_a_twentieth_by_the_seed_and_judges_by_200_at_most() -> None:
    texts = random_texts(2000)
    training, held = split(texts, seed=0)
    assert len(training) + len(held) == 2000
    assert 60 < len(held) < 140
    assert not prompts_of(held) <= prompts_of(split(texts, seed=1)[1])
    training, held = split(random_texts(6000), seed=0)
    assert 5500 < len(training) < 5790
    assert len(prompts_of(held)) == 200


def test_no_text_that_was_trained_on_is_held_out_once_there_are_more_or_fewer() -> None:
    texts = random_texts(900)
    some = prompts_of(split(texts[:300], seed=0)[0])
    for others in (texts[:310], texts, texts[40:280], texts[::-1]):
        assert not some & prompts_of(split(others, seed=0)[1])


def test_split_of_one_prompt_is_refused() -> None:
    with pytest.raises(ModelError, match="only one prompt"):
        split(random_texts(1), seed=0)


def test_frequent_answer_tokens_are_kept_and_end_tokens_always() -> None:
    text = Text(np.asarray([1, 1, 1, 1, 8, 8, 9, 3], np.int32), 4)
    assert choose_tokens([text], vocab_size=12, size=4, always=[11]).tolist() == [3, 8, 9, 11]
    assert choose_tokens([text], vocab_size=12, size=2, always=[11]).tolist() == [8, 11]
    assert choose_tokens([text], vocab_size=12, size=99, always=[]).tolist() == list(range(12))


def test_stand_in_points_the_same_way() -> None:
    table = np.asarray([[1, 0], [0, 1], [-1, -1], [5, 0.5], [-3, -2.5]], np.float32)
    vocabulary = find_stand_ins(table, np.asarray([0, 1, 2]))
    assert vocabulary.inward.tolist() == [0, 1, 2, 0, 2]
    assert vocabulary.outward.tolist() == [0, 1, 2, -1, -1]


def test_kept_ids_stand_for_themselves_even_beside_a_twin() -> None:
    table = np.asarray([[1, 0], [1, 0], [0, 1], [-1, -2]], np.float32)
    assert find_stand_ins(table, np.asarray([0, 1, 2])).inward.tolist() == [0, 1, 2, 2]


def test_vocabulary_of_another_target_is_refused(tmp_path: Path) -> None:
    vocabulary = find_stand_ins(np.eye(6, dtype=np.float32), np.asarray([0, 2]))
    save_vocabulary(tmp_path / "v.npz", vocabulary)
    assert load_vocabulary(tmp_path / "v.npz", vocab_size=6).kept.tolist() == [0, 2]
    with pytest.raises(ModelError, match=r"does not fit the target: it is made for 6 tokens, the target has 7"):
        load_vocabulary(tmp_path / "v.npz", vocab_size=7)
    (tmp_path / "v.npz").write_bytes((tmp_path / "v.npz").read_bytes()[:100])
    with pytest.raises(ModelError, match="is damaged"):
        load_vocabulary(tmp_path / "v.npz", vocab_size=6)


@given(st.lists(st.integers(2, 60), min_size=1, max_size=80), st.integers(0, 3))
def test_an_epoch_has_every_text_once_within_its_tokens(lengths: list[int], seed: int) -> None:
    batches = list(plan_epoch(lengths, tokens=64, seed=seed, epoch=1))
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    assert all(len(batch) * max(lengths[index] for index in batch) <= 64 for batch in batches)
    assert batches == list(plan_epoch(lengths, tokens=64, seed=seed, epoch=1))


def test_a_batch_predicts_each_answer_token_from_the_ids_before_it() -> None:
    texts = random_texts(5)
    batch = collate(texts, 3)
    at = 0
    for row, text in enumerate(texts):
        for position in np.flatnonzero(batch.where[row].numpy()):
            before = [*batch.prefix.tolist(), *batch.ids[row, : position + 1].tolist()]
            assert before == text.ids[: len(before)].tolist()
            assert batch.wanted[at] == text.ids[len(before)]
            at += 1
    assert at == len(batch.wanted) == sum(len(text.answer) for text in texts)
