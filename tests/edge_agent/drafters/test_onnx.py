"""The ONNX drafter computes what the model computes, however the cache got there."""

from __future__ import annotations

import json
import os
import shutil
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest

from edge_agent.drafters.drafter import DrafterError
from edge_agent.drafters.onnx import OnnxDrafter
from edge_agent.drafters.onnx_graph import find_file
from tests.edge_agent.drafters.tiny_decoder import LONGEST, PADDED, VOCAB, TinyDecoder

if TYPE_CHECKING:
    from pathlib import Path

    from tests.edge_agent.drafters.tiny_decoder import Kind

MODEL = TinyDecoder.random()


@pytest.fixture(scope="session", params=["published", "fused", "fused, cache copied"])
def drafter(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> OnnxDrafter:
    """One drafter of each kind of graph and cache."""
    kind: Kind = "fused" if request.param.startswith("fused") else "published"
    folder = MODEL.save(tmp_path_factory.mktemp("tiny"), kind)
    return OnnxDrafter(folder, share=request.param != "fused, cache copied")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A published export that tests may damage."""
    return MODEL.save(tmp_path / "tiny", "published")


def expect(drafter: OnnxDrafter, tokens: list[int]) -> None:
    """Compare a proposal with the model computed from scratch."""
    proposal = drafter.propose(tokens)
    token, confidence = MODEL.greedy(tokens)
    assert proposal.token == token
    assert proposal.confidence == pytest.approx(confidence, abs=1e-4)


def test_propose_with_half_precision_caches(tmp_path: Path) -> None:
    drafter = OnnxDrafter(MODEL.save(tmp_path / "half", "published", half=True))
    for sequence in ([1, 2, 3, 4], [1, 2, 7], [1, 2, 7, 5, 5]):
        proposal = drafter.propose(sequence)
        assert (proposal.token, proposal.confidence) == pytest.approx(MODEL.greedy(sequence), abs=0.02)


def test_models_of_one_name_are_told_apart_and_a_sealed_copy_is_not(tmp_path: Path) -> None:
    first, other = MODEL.save(tmp_path / "a" / "tiny", "published"), MODEL.save(tmp_path / "b" / "tiny", "fused")
    one, two = (OnnxDrafter(folder).propose([1, 2]) for folder in (first, other))
    assert one.source == two.source == "tiny"
    assert one.learner != two.learner
    assert OnnxDrafter(first).propose([1]).learner == one.learner
    file = find_file(first)
    (file.parent / "sled.json").write_text("one")
    sealed = OnnxDrafter(first).propose([1]).weights
    shutil.copytree(first, tmp_path / "copy", copy_function=shutil.copyfile)
    os.utime(tmp_path / "copy" / file.relative_to(first), (1, 1))
    assert OnnxDrafter(tmp_path / "copy").propose([1]).weights == sealed
    (file.parent / "sled.json").write_text("two")  # distilled again in place
    assert OnnxDrafter(first).propose([1]).weights != sealed


def test_weights_beside_the_graph_count(tmp_path: Path) -> None:
    folder = MODEL.save(tmp_path / "tiny", "published")
    file, before = find_file(folder), OnnxDrafter(folder).propose([1]).weights
    file.with_name(f"{file.name}_data").write_bytes(b"weights")
    assert OnnxDrafter(folder).propose([1]).weights != before


def test_propose_long_prompt_is_chunked_and_the_cache_grows(drafter: OnnxDrafter) -> None:
    """1,100 tokens: five chunks, and twice a larger cache in place."""
    sequence = np.random.default_rng(5).integers(0, VOCAB, 1100).tolist()
    expect(drafter, sequence)
    expect(drafter, [*sequence[:700], 1, 2])
    expect(drafter, [9])


def test_shared_cache_is_used_by_fused_graphs_only(tmp_path: Path) -> None:
    assert OnnxDrafter(MODEL.save(tmp_path / "fused", "fused")).shared_cache
    assert not OnnxDrafter(MODEL.save(tmp_path / "published", "published")).shared_cache


def test_propose_unknown_token_is_refused_and_the_drafter_goes_on(drafter: OnnxDrafter) -> None:
    drafter.propose([1, 2, 3])
    with pytest.raises(DrafterError, match="Check that it belongs to this tokenizer"):
        drafter.propose([1, 2, PADDED])
    expect(drafter, [1, 2, 3])


def test_vocab_limit_keeps_padding_from_being_proposed(tmp_path: Path) -> None:
    weights = MODEL.weights | {"bias": np.where(np.arange(PADDED) >= VOCAB, 50, 0).astype(np.float32)}
    padded = TinyDecoder(weights)
    folder = padded.save(tmp_path / "padded", "published")
    assert OnnxDrafter(folder).propose([1, 2]).token >= VOCAB
    limited = OnnxDrafter(folder, vocab_limit=VOCAB)
    assert limited.vocab_size == VOCAB
    proposal = limited.propose([1, 2])
    assert (proposal.token, proposal.confidence) == pytest.approx(padded.greedy([1, 2], VOCAB), abs=1e-5)


def test_propose_tie_takes_the_lowest_id(tmp_path: Path) -> None:
    weights = MODEL.weights | {"head": np.zeros_like(MODEL.weights["head"])}
    proposal = OnnxDrafter(TinyDecoder(weights).save(tmp_path / "ties", "fused")).propose([5, 6])
    assert proposal.token == 0
    assert proposal.confidence == pytest.approx(1 / PADDED)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_propose_with_damaged_weights_is_an_error(tmp_path: Path, value: float) -> None:
    bias = MODEL.weights["bias"].copy()
    bias[7] = value
    folder = TinyDecoder(MODEL.weights | {"bias": bias}).save(tmp_path / "damaged", "fused")
    drafter = OnnxDrafter(folder)
    assert drafter.shared_cache
    with pytest.raises(DrafterError, match=r"not a number; the model's weights are damaged\. Copy its folder again"):
        drafter.propose([1])


def test_name_and_limits_are_the_folder_s(folder: Path) -> None:
    drafter = OnnxDrafter(folder, threads=2)
    assert (drafter.name, drafter.vocab_size, drafter.context_length) == ("tiny", PADDED, LONGEST)


@pytest.mark.parametrize("place", ["onnx/model.onnx", "model_quantized.onnx", "onnx/model_q4.onnx"])
def test_load_finds_the_file_where_exports_put_it(tmp_path: Path, place: str) -> None:
    assert OnnxDrafter(MODEL.save(tmp_path / "tiny", "published", place=place)).propose([1]).token < PADDED


def test_load_named_file_among_several(tmp_path: Path) -> None:
    folder = MODEL.save(tmp_path, "published", place="onnx/model_a.onnx")
    MODEL.save(tmp_path, "fused", place="onnx/model_b.onnx")
    with pytest.raises(DrafterError, match=r"several ONNX files \(onnx/model_a.onnx, onnx/model_b.onnx\)"):
        OnnxDrafter(folder)
    assert OnnxDrafter(folder / "onnx" / "model_b.onnx").name == "model_b"


def test_load_missing_folder_names_it(tmp_path: Path) -> None:
    with pytest.raises(DrafterError, match=r"nowhere: the folder does not exist\. Check the path"):
        OnnxDrafter(tmp_path / "nowhere")


def test_load_folder_without_onnx_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DrafterError, match=r"has no model\.onnx.*export the model"):
        OnnxDrafter(tmp_path)


@pytest.mark.parametrize("name", ["model.onnx", "model.onnx.data"])
def test_load_truncated_file_is_an_error(folder: Path, name: str) -> None:
    whole = (folder / name).read_bytes()
    (folder / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DrafterError, match=r"model\.onnx cannot be loaded: .*Copy the whole folder again"):
        OnnxDrafter(folder)


@pytest.mark.parametrize("content", [b"", b"not a model"])
def test_load_file_that_is_no_onnx_is_an_error(folder: Path, content: bytes) -> None:
    (folder / "model.onnx").write_bytes(content)
    with pytest.raises(DrafterError, match="cannot be loaded"):
        OnnxDrafter(folder)


def test_load_without_weights_file_is_an_error(folder: Path) -> None:
    (folder / "model.onnx.data").unlink()
    with pytest.raises(DrafterError, match=r"with any \.onnx\.data file beside it"):
        OnnxDrafter(folder)


def test_load_without_config_asks_for_it(folder: Path) -> None:
    (folder / "config.json").unlink()
    with pytest.raises(DrafterError, match=r"put the model's config\.json"):
        OnnxDrafter(folder)


def test_load_damaged_config_names_it(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps({"hidden_size": "wide"}))
    with pytest.raises(DrafterError, match=r"config\.json cannot be read"):
        OnnxDrafter(folder)


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("present.0.value", "other", "lacks present.0.value"),
        ("past_key_values.0.key", "cache", "lacks past_key_values.0.key.*asks for cache"),
        ("attention_mask", "use_cache_branch", "asks for use_cache_branch"),
        ("logits", "hidden", "lacks logits"),
    ],
)
def test_load_other_layout_says_what_is_missing(folder: Path, old: str, new: str, complaint: str) -> None:
    path = folder / "model.onnx"
    model = onnx.load(path, load_external_data=False)
    for value in [*model.graph.input, *model.graph.output]:
        value.name = new if value.name == old else value.name
    for node in model.graph.node:
        for names in (node.input, node.output):
            names[:] = [new if name == old else name for name in names]
    path.write_bytes(model.SerializeToString())
    with pytest.raises(DrafterError, match=f"Hugging Face layout: it .*{complaint}"):
        OnnxDrafter(folder)
