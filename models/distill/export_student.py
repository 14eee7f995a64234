"""A trained student as a drafter's folder: the builder's graph with few-bit weights and the target's token ids."""

from __future__ import annotations

import shutil
from importlib.metadata import version
from typing import TYPE_CHECKING

import msgspec

from edge_agent.drafters.drafter import DrafterError
from edge_agent.drafters.onnx import OnnxDrafter
from models.cache import building, locked
from models.distill.graph import compress
from models.distill.quantise import INT4, INT8, Grid
from models.error import ModelError
from models.export import export_drafter
from models.seal import seal_folder

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedModel

    from models.distill.vocabulary import Vocabulary
    from models.progress import Progress

FILE = "model.onnx"

_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "generation_config.json",
    "LICENSE",
)
"""Copied as they are, so that the drafter's tokenizer is the target's to the byte."""


def grid_of(node: str, *, bits: int) -> Grid:
    """Return the grid of a matrix: the output head, which is the embedding too, always has 8 bits.

    Args:
        node: the name of its node in the builder's graph.
        bits: of the matrices in the layers.
    """
    return INT8 if bits == 8 or "lm_head" in node else INT4


def build_graph(student: PreTrainedModel, target: Path, work: Path, *, context: int, progress: Progress) -> Path:
    """Let the builder write the student's graph in float32, with its own token ids; return its folder.

    Args:
        student: trained.
        target: folder of the target, for the tokenizer.
        work: folder to build in.
        context: the longest sequence the drafter will read; every token of it costs room in the file.
        progress: told how far it is.

    Raises:
        ModelError: the builder does not know this kind of model, or the disk is full.
    """
    plain = _save_plain(student, target, work / "student", context)
    return export_drafter(plain, work / "graph", precision="fp32", progress=progress)


def write_drafter(
    graph: Path, vocabulary: Vocabulary, target: Path, out: Path, *, bits: int, source: str, progress: Progress
) -> None:
    """Write a drafter's folder, whole or not at all: one .onnx file and the target's tokenizer.

    Args:
        graph: from `build_graph`.
        vocabulary: the student's tokens.
        target: folder of the target, for the tokenizer.
        out: the folder to make; what is there is replaced.
        bits: of the weights in the layers, 4 or 8.
        source: what it was made from, in words.
        progress: told how far it is.

    Raises:
        ModelError: the drafter does not work, or the disk is full.
    """
    import onnx  # noqa: PLC0415 - an extra

    with locked(out, progress), building(out, needs=_size(graph)) as partial:
        progress("Compressing the drafter", 0, None)
        model = onnx.load(graph / FILE)
        compress(model, vocabulary, lambda node: grid_of(node, bits=bits))
        onnx.save(model, partial / FILE)
        _copy_settings(graph, partial, vocab_size=len(vocabulary.inward))
        _copy_tokenizer(target, partial)
        progress("Trying the drafter", 0, None)
        _try(partial)
        seal_folder(partial, source=source, version=version("onnxruntime-genai"), files=[FILE])


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


def _save_plain(student: PreTrainedModel, target: Path, folder: Path, context: int) -> Path:
    """Write the student as a Hugging Face folder for the builder; tables of positions are as long as the context."""
    longest = student.config.max_position_embeddings
    student.config.max_position_embeddings = min(context, longest)
    try:
        student.save_pretrained(str(folder))
    finally:
        student.config.max_position_embeddings = longest
    _copy_tokenizer(target, folder)
    return folder


def _copy_tokenizer(source: Path, folder: Path) -> None:
    for name in _TOKENIZER_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)


def _copy_settings(graph: Path, folder: Path, *, vocab_size: int) -> None:
    settings = msgspec.json.decode((graph / "genai_config.json").read_bytes())
    settings["model"]["vocab_size"] = vocab_size
    (folder / "genai_config.json").write_bytes(msgspec.json.format(msgspec.json.encode(settings)) + b"\n")
    shutil.copyfile(graph / "config.json", folder / "config.json")


def _try(folder: Path) -> None:
    try:
        OnnxDrafter(folder).propose([0])
    except DrafterError as error:
        raise ModelError(f"The exported drafter does not work: {error}") from error
