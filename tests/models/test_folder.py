"""What a model folder must hold, and how damage is found."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest
from safetensors.numpy import save_file

from models.error import ModelError
from models.folder import check_folder, verify_folder
from models.seal import read_seal, seal_folder

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder that looks like a model's."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "llama"}')
    (folder / "tokenizer.json").write_text("{}")
    save_file({"a": np.arange(100.0), "b": np.ones((3, 4), np.float32)}, folder / "model.safetensors")
    return folder


def test_check_folder_names_the_weights(folder: Path) -> None:
    assert check_folder(folder) == ["model.safetensors"]


def test_check_folder_with_shards_names_each(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.rename(folder / "model-1.safetensors")
    save_file({"c": np.ones(2)}, folder / "model-2.safetensors")
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-1.safetensors", "c": "model-2.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert check_folder(folder) == ["model-1.safetensors", "model-2.safetensors"]
    (folder / "model-2.safetensors").unlink()
    with pytest.raises(ModelError, match=r"lacks the weights model-2\.safetensors"):
        check_folder(folder)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_check_folder_without_a_part_names_it(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(ModelError, match=name):
        check_folder(folder)


def test_check_folder_with_pickled_weights_says_how_to_save_them(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match="pickle format, which can run any code; save the model"):
        check_folder(folder)


def test_check_folder_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"nowhere: the folder does not exist"):
        check_folder(tmp_path / "nowhere")


@pytest.mark.parametrize("content", ["", "[]", '{"model_type": '])
def test_check_folder_with_damaged_config_names_it(folder: Path, content: str) -> None:
    (folder / "config.json").write_text(content)
    with pytest.raises(ModelError, match=r"config\.json is damaged"):
        check_folder(folder)


@pytest.mark.parametrize("kept", [0, 4, 8, 60, 300, -1])
def test_check_folder_with_truncated_weights_is_an_error(folder: Path, kept: int) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:kept])
    with pytest.raises(ModelError, match=r"model\.safetensors is damaged or incomplete"):
        check_folder(folder)


@pytest.mark.parametrize("header", [b"[]", b'{"a": 1}', b'{"a": {}}', b"\xff\xff", b'{"a": {"data_offsets": []}}'])
def test_check_folder_with_nonsense_for_weights_is_an_error(folder: Path, header: bytes) -> None:
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(ModelError, match="damaged or incomplete"):
        check_folder(folder)


def test_verify_folder_finds_one_changed_bit(folder: Path) -> None:
    seal_folder(folder, source="a test", version="1", files=check_folder(folder))
    assert verify_folder(folder) == ["model.safetensors"]
    weights = folder / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    check_folder(folder)  # its size is right
    with pytest.raises(ModelError, match=r"model\.safetensors is damaged: its checksum"):
        verify_folder(folder)


@pytest.mark.parametrize("content", [b'{"source": 1}', b'{"source": "\xff"}', b'{"more": ' + b"[" * 9_000])
def test_verify_folder_with_damaged_seal_is_an_error(folder: Path, content: bytes) -> None:
    (folder / "sled.json").write_bytes(content)
    with pytest.raises(ModelError, match=r"sled\.json is damaged"):
        verify_folder(folder)


def test_verify_folder_with_a_name_in_its_seal_that_no_file_can_have(folder: Path) -> None:
    seal = {"source": "a test", "version": "1", "sha256": {"x" * 300: "00"}}
    (folder / "sled.json").write_text(json.dumps(seal))
    with pytest.raises(ModelError, match="cannot be read"):
        verify_folder(folder)


def test_seal_says_where_the_folder_came_from(folder: Path) -> None:
    written = seal_folder(folder, source="a test", version="1", files=["model.safetensors"])
    assert read_seal(folder) == written
    assert json.loads((folder / "sled.json").read_text())["source"] == "a test"
