"""A student with a width of its own: its shape, its beginnings, and the graph that is made of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from models.distill.export_student import build_graph
from models.distill.small_student import check_width, narrowed, number_layers, small_config, small_student
from models.distill.vocabulary import Vocabulary, find_stand_ins
from models.error import ModelError
from models.progress import silent
from tests.models.distill.graphs import last_logits
from tests.models.distill.targets import save_gpt2
from verifier.engine.checkpoint import load_model

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedModel

CONTEXT = 8192


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny GPT-2 with a long context."""
    return save_gpt2(tmp_path_factory.mktemp("gpt2") / "target", longest=CONTEXT)


@pytest.fixture(scope="module")
def target(folder: Path) -> PreTrainedModel:
    """The model in it."""
    return load_model(folder, dtype="float32", device="cpu", threads=None)


@pytest.fixture(scope="module")
def vocabulary(target: PreTrainedModel) -> Vocabulary:
    """Some of its tokens."""
    return find_stand_ins(target.get_input_embeddings().weight.numpy(), np.asarray([*range(5, 200), 256]))


@pytest.mark.parametrize("width", [-16, 0, 8, 24, 100])
def test_widths_that_cannot_be_are_refused(width: int) -> None:
    with pytest.raises(ModelError, match=r"multiple of 16"):
        check_width(width)


@pytest.mark.parametrize(
    ("width", "heads", "inner"), [(16, 1, 64), (32, 1, 96), (48, 3, 128), (96, 3, 256), (256, 4, 704)]
)
def test_heads_are_as_wide_as_the_width_allows(
    target: PreTrainedModel, vocabulary: Vocabulary, width: int, heads: int, inner: int
) -> None:
    config = small_config(target, 2, width, vocabulary)
    assert (config.num_attention_heads, config.head_dim * heads, config.intermediate_size) == (heads, width, inner)
    assert (config.vocab_size, config.num_hidden_layers, config.max_position_embeddings) == (196, 2, CONTEXT)
    assert config.eos_token_id == 195


def test_layers_are_counted_and_never_named() -> None:
    assert number_layers(30, None) == tuple(range(9))
    assert number_layers(2, 5) == (0, 1, 2, 3, 4)
    with pytest.raises(ModelError, match="cannot have 0 layers"):
        number_layers(30, 0)
    with pytest.raises(ModelError, match=r"none of the target's layers, such as \[0, 1, 29\]"):
        number_layers(30, (0, 1, 29))


def test_embeddings_keep_what_tells_tokens_apart() -> None:
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(50, 3, generator=generator) @ torch.randn(3, 12, generator=generator) + 7
    small = narrowed(table, 3, size=0.02)
    assert small.shape == (50, 3)
    assert float(small.std()) == pytest.approx(0.02, rel=0.02)
    before, after = torch.cdist(table, table), torch.cdist(small, small)
    torch.testing.assert_close(after / after.max(), before / before.max(), rtol=1e-2, atol=1e-3)


def test_columns_beyond_the_target_s_are_random(target: PreTrainedModel, vocabulary: Vocabulary) -> None:
    table = target.get_input_embeddings().weight[torch.from_numpy(vocabulary.kept)]
    wide = narrowed(table, 96, size=0.02)
    assert wide.shape == (196, 96)
    assert float(wide[:, 48:].std()) == pytest.approx(0.02, rel=0.05)


def test_the_same_seed_gives_the_same_student(target: PreTrainedModel, vocabulary: Vocabulary) -> None:
    students = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        students.append(torch.cat([value.flatten() for value in small_student(target, 1, 64, vocabulary).parameters()]))
    assert torch.equal(students[0], students[1])
    assert not torch.equal(students[0], students[2])


def test_a_vocabulary_of_another_target_is_refused(target: PreTrainedModel) -> None:
    with pytest.raises(ModelError, match="made for 10 tokens, but the target has 320"):
        small_student(target, 1, 32, Vocabulary(np.arange(5), np.zeros(10, np.int64)))


def test_the_graph_computes_what_the_student_computes(
    folder: Path, target: PreTrainedModel, vocabulary: Vocabulary, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    student = small_student(target, 2, 96, vocabulary)
    with torch.no_grad():
        for value in student.parameters():
            value.mul_(8)  # so that attention, hence the rotation, counts
    graph = build_graph(student, folder, tmp_path, context=CONTEXT, progress=silent)
    ids = np.random.default_rng(0).integers(0, 196, (1, 60))
    logits = last_logits(graph, ids, head_size=32)
    with torch.no_grad():
        expected = student(torch.from_numpy(ids)).logits[0, -1]
    torch.testing.assert_close(torch.from_numpy(logits), expected, rtol=1e-3, atol=1e-3 * float(expected.std()))
