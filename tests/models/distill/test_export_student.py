"""The exported drafter is the student, with the target's ids on both ends."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from edge_agent.drafters.drafter import DrafterError
from edge_agent.drafters.onnx import OnnxDrafter
from edge_agent.tokenizer import ChatTokenizer
from models.distill.export_student import build_graph, grid_of, write_drafter
from models.distill.quantise import quantise, restore
from models.distill.student import cut_student, layer_prefix
from models.distill.vocabulary import find_stand_ins
from models.progress import silent
from tests.models.distill.graphs import last_logits
from tests.models.tiny import VOCAB
from verifier.engine.checkpoint import load_model

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedModel

    from models.distill.vocabulary import Vocabulary
    from models.progress import Progress

CONTEXT = 100


class Built:
    """A student of all layers of a tiny target, and its graph."""

    def __init__(self, folder: Path, target: Path) -> None:
        self.target = target
        model = load_model(self.target, dtype="float32", device="cpu", threads=None)
        kept = np.asarray([*range(5, 200), 256])
        self.vocabulary: Vocabulary = find_stand_ins(model.get_input_embeddings().weight.numpy(), kept)
        self.student = cut_student(model, range(model.config.num_hidden_layers), self.vocabulary)
        self.folder = folder
        self.graph = build_graph(self.student, self.target, folder, context=CONTEXT, progress=silent)


class Exported:
    """The drafter written from it."""

    def __init__(self, built: Built, bits: int) -> None:
        self.target, self.vocabulary, self._graph = built.target, built.vocabulary, built.graph
        self.folder = built.folder / f"drafter-{bits}"
        self.write(self.folder, bits)
        self.student = copy.deepcopy(built.student)
        round_like_export(self.student, bits)

    def write(self, out: Path, bits: int, progress: Progress = silent) -> None:
        """Write a drafter's folder."""
        write_drafter(self._graph, self.vocabulary, self.target, out, bits=bits, source="test", progress=progress)


def round_like_export(student: PreTrainedModel, bits: int) -> None:
    """Give the student the weights that its export stores."""
    prefix = layer_prefix(student)
    tables = {id(module.weight) for module in (student.get_input_embeddings(), student.get_output_embeddings())}
    with torch.no_grad():
        for name, value in student.named_parameters():
            if value.dim() == 2 and (name.startswith(prefix) or id(value) in tables):
                grid = grid_of(name if name.startswith(prefix) else "lm_head", bits=bits)
                value.copy_(restore(*quantise(value, grid), value.shape[1], grid))


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, architecture_folder: Path) -> Built:
    """A student of each architecture: building its graph takes seconds, writing a drafter from it none."""
    return Built(tmp_path_factory.mktemp("export"), architecture_folder)


@pytest.fixture(scope="module", params=[8, 4])
def exported(request: pytest.FixtureRequest, built: Built) -> Exported:
    """Its drafter in 8 and in 4 bits."""
    return Exported(built, request.param)


def test_drafter_computes_what_the_student_computes(exported: Exported) -> None:
    ids = np.asarray([[300, 7, 9, 30, 199, 3, 256, 12]])  # 300 and 3 are read as others
    logits = last_logits(exported.folder, ids, head_size=16)
    with torch.no_grad():
        expected = exported.student(torch.from_numpy(exported.vocabulary.inward[ids])).logits[0, -1].numpy()
    kept = exported.vocabulary.kept
    assert logits.shape == (VOCAB,)
    assert np.isneginf(np.delete(logits, kept)).all()
    # The drafter rounds each layer's input to 8 bits besides, which the student does not.
    assert np.sqrt(np.mean((logits[kept] - expected) ** 2)) < 0.08 * expected.std()


def test_drafter_works_in_place_and_knows_its_context(exported: Exported) -> None:
    drafter = OnnxDrafter(exported.folder)
    assert drafter.shared_cache
    assert (drafter.vocab_size, drafter.context_length) == (VOCAB, CONTEXT)
    proposal = drafter.propose([300, 7, 9])
    assert proposal.token in exported.vocabulary.kept
    assert 0 < proposal.confidence <= 1


def test_drafter_has_the_target_s_tokenizer(exported: Exported) -> None:
    assert ChatTokenizer.load(exported.folder).canonical_json == ChatTokenizer.load(exported.target).canonical_json


def test_folder_is_small(exported: Exported) -> None:
    weights = sum(value.numel() for value in exported.student.parameters())
    assert (exported.folder / "model.onnx").stat().st_size < 1.5 * weights + 60_000
    assert not list(exported.folder.glob("*.data"))


def test_truncated_file_is_named(exported: Exported, tmp_path: Path) -> None:
    content = (exported.folder / "model.onnx").read_bytes()
    (tmp_path / "model.onnx").write_bytes(content[: len(content) // 2])
    with pytest.raises(DrafterError, match=r"model\.onnx cannot be loaded"):
        OnnxDrafter(tmp_path)


def test_interrupted_export_leaves_the_old_drafter(exported: Exported, tmp_path: Path) -> None:
    out = tmp_path / "drafter"
    exported.write(out, 8)
    before = (out / "model.onnx").read_bytes()

    def interrupt(step: str, done: int, total: int | None) -> None:
        if step == "Trying the drafter":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        exported.write(out, 4, interrupt)
    assert (out / "model.onnx").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["drafter"]
