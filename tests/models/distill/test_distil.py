"""What is refused before hours of work, and work on a GPU."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest
import torch

from edge_agent.drafters.onnx import OnnxDrafter
from models.distill.distil import distil, frontier
from models.distill.options import Options
from models.distill.student_folder import load_vocabulary
from models.distill.workshop import Workshop
from models.error import ModelError
from models.progress import silent
from models.seal import seal_folder
from tests.models.distill.targets import save_gpt2
from tests.models.tiny import VOCAB, save_tokenizer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SHORT = Options(texts=6, tokens=400, vocabulary=200, batch=4)


def put_file(place: Path) -> None:
    place.write_text("precious")


def put_folder(place: Path) -> None:
    place.mkdir()
    put_file(place / "precious")


def put_target(place: Path) -> None:
    put_folder(place)
    seal_folder(place, source="a.gguf from somewhere", version="1", files=["precious"])


def put_link_to_a_drafter(place: Path) -> None:
    drafter = place.with_name("elsewhere")
    put_folder(drafter)
    seal_folder(drafter, source="8-bit export of a student of a target", version="1", files=["precious"])
    place.symlink_to(drafter)


@pytest.mark.parametrize("name", ["out", "out-int8"])
@pytest.mark.parametrize("put", [put_file, put_folder, put_target, put_link_to_a_drafter])
def test_only_a_drafter_made_by_a_distillation_is_replaced(
    llama: Path, tmp_path: Path, put: Callable[[Path], None], name: str
) -> None:
    put(tmp_path / name)
    with pytest.raises(ModelError, match=f"{name} exists and is no drafter made here"):
        distil(llama, tmp_path / "out", SHORT)
    assert not (tmp_path / "out.training").exists()
    assert list(tmp_path.glob("**/precious")) or (tmp_path / name).read_text() == "precious"


def test_students_of_several_sizes_are_put_in_a_folder_only(llama: Path, tmp_path: Path) -> None:
    put_file(tmp_path / "out")
    with pytest.raises(ModelError, match="is no folder"):
        frontier(llama, tmp_path / "out", SHORT, students=[1])


class Halted(Exception):
    """Raised where the hours of work would begin."""


def stop_at_loading(step: str, done: int, total: int | None) -> None:
    if step == "Loading the target":
        raise Halted


def test_texts_of_another_target_are_refused_before_they_are_used(llama: Path, qwen2: Path, tmp_path: Path) -> None:
    with pytest.raises(Halted):
        distil(llama, tmp_path / "out", SHORT, progress=stop_at_loading)
    with pytest.raises(ModelError, match=r"texts in .*out\.training are those of another target"):
        distil(qwen2, tmp_path / "out", SHORT, progress=stop_at_loading)
    with pytest.raises(Halted):
        distil(llama, tmp_path / "out", SHORT, progress=stop_at_loading)


def test_a_target_whose_second_weight_file_changed_is_another_one(llama: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    target = tmp_path / "target"
    AutoModelForCausalLM.from_pretrained(llama).save_pretrained(str(target), max_shard_size="100KB")
    save_tokenizer(target)
    with pytest.raises(Halted):
        distil(target, tmp_path / "out", SHORT, progress=stop_at_loading)
    last = max(target.glob("model-*.safetensors"))
    content = bytearray(last.read_bytes())
    content[-1] ^= 1
    last.write_bytes(content)
    with pytest.raises(ModelError, match="another target"):
        distil(target, tmp_path / "out", SHORT, progress=stop_at_loading)


def test_another_number_of_tokens_is_refused_where_students_share_a_vocabulary(llama: Path, tmp_path: Path) -> None:
    Workshop(llama, "digest", tmp_path / "work", SHORT, silent)
    other = msgspec.structs.replace(SHORT, vocabulary=100)
    with pytest.raises(ModelError, match=r"can write 200 tokens, not 100; give that number again"):
        Workshop(llama, "digest", tmp_path / "work", other, silent)


def test_what_the_file_system_refuses_is_a_sentence(llama: Path, tmp_path: Path) -> None:
    (tmp_path / "out.training" / "texts.jsonl").mkdir(parents=True)
    with pytest.raises(ModelError, match=r"texts\.jsonl cannot be written or read \(Is a directory\)"):
        distil(llama, tmp_path / "out", SHORT)


@pytest.mark.parametrize("layers", [0, 3, (1, 0), (0, 2), ()])
def test_layers_are_checked_before_anything_is_written(
    llama: Path, tmp_path: Path, layers: int | tuple[int, ...]
) -> None:
    with pytest.raises(ModelError, match=r"cannot be cut from a target of 2|are not some of the target's 2"):
        frontier(llama, tmp_path / "out", SHORT, students=[layers])
    assert not list(tmp_path.iterdir())


def test_two_students_of_a_size_are_refused(llama: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="as many layers"):
        frontier(llama, tmp_path / "out", SHORT, students=[1, (1,)])


def test_a_target_that_cannot_be_exported_is_refused_before_the_training(tmp_path: Path) -> None:
    target, steps = save_gpt2(tmp_path / "gpt2"), list[str]()
    with pytest.raises(ModelError, match=r"(?s)No drafter can be cut from .*gpt2: .*exported to ONNX.*Try --width 256"):
        distil(target, tmp_path / "out", SHORT, progress=lambda step, done, total: steps.append(step))
    assert "Training" not in steps
    assert not (tmp_path / "out").exists()


def test_any_target_gets_a_student_of_its_own_width_which_goes_on(tmp_path: Path) -> None:
    target = save_gpt2(tmp_path / "models--org--gpt2" / "snapshots" / "0123abc")
    out, narrow = tmp_path / "out", msgspec.structs.replace(SHORT, width=32, layers=2)
    first = distil(target, out, narrow)
    steps: list[tuple[str, int]] = []
    more = msgspec.structs.replace(narrow, tokens=2 * first.tokens)
    report = distil(target, out, more, progress=lambda step, done, total: steps.append((step, done)))
    begun = next(done for step, done in steps if step.startswith("Training"))
    assert begun == 500
    assert report.tokens >= 2 * first.tokens
    assert (report.width, report.layers) == (32, (0, 1))
    drafter = OnnxDrafter(out)
    vocabulary = load_vocabulary(tmp_path / "out.training" / "vocabulary.npz", vocab_size=VOCAB)
    assert (drafter.vocab_size, drafter.context_length) == (VOCAB, 200)
    assert drafter.propose([300, 7, 9]).token in vocabulary.kept
    assert "| Target | org/gpt2 (weights" in (out / "README.md").read_text()
    with pytest.raises(ModelError, match="was begun with width 32, not 48"):
        distil(target, out, msgspec.structs.replace(narrow, width=48))


def test_students_of_a_width_have_several_numbers_of_layers(llama: Path, tmp_path: Path) -> None:
    options = msgspec.structs.replace(SHORT, width=48)
    reports = frontier(llama, tmp_path / "sizes", options, students=[1, 3])  # more than the target has
    assert [(report.width, len(report.layers)) for report in reports] == [(48, 1), (48, 3)]
    assert OnnxDrafter(tmp_path / "sizes" / "3-layers").propose([1]) is not None


@pytest.mark.parametrize(("width", "layers", "words"), [(100, 1, "multiple of 16"), (32, (0, 1), "such as")])
def test_a_width_is_checked_before_anything_is_written(
    llama: Path, tmp_path: Path, width: int, layers: int | tuple[int, ...], words: str
) -> None:
    with pytest.raises(ModelError, match=words):
        distil(llama, tmp_path / "out", msgspec.structs.replace(SHORT, width=width, layers=layers))
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_on_a_gpu(llama: Path, tmp_path: Path, dtype: str) -> None:
    options = Options(texts=6, tokens=400, vocabulary=200, batch=4, device="cuda", dtype=dtype)  # type: ignore[arg-type]
    report = distil(llama, tmp_path / "drafter", options)
    assert report.tokens >= 400
    assert OnnxDrafter(tmp_path / "drafter").propose([1]) is not None
