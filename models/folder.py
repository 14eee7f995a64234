"""A Hugging Face model folder: what must be in it, and whether it is whole."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from models.error import ModelError
from models.seal import check_seal

if TYPE_CHECKING:
    from pathlib import Path

_INDEX = "model.safetensors.index.json"
_LONGEST_HEADER = 100_000_000  # bytes; the limit of the safetensors format


def check_folder(folder: Path) -> list[str]:
    """Check that a folder holds a model with its tokenizer; return the names of its weight files.

    Finds truncated weights from their headers, without reading them whole.

    Raises:
        ModelError: something is missing or damaged; the message names it.
    """
    if not folder.is_dir():
        raise ModelError(f"There is no model in {folder}: the folder does not exist. Check the path.")
    _read_object(folder, "config.json", "a Hugging Face model folder has one")
    _read_object(folder, "tokenizer.json", "save the model's fast tokenizer into the same folder")
    weights = _weight_files(folder)
    for name in weights:
        _check_safetensors(folder / name)
    return weights


def verify_folder(folder: Path) -> list[str]:
    """Check a folder as `check_folder` does and, if it was made by sled, every byte of its weights.

    Raises:
        ModelError: something is missing or damaged; the message names it.
    """
    weights = check_folder(folder)
    check_seal(folder)
    return weights


def _weight_files(folder: Path) -> list[str]:
    if (folder / "model.safetensors").is_file():
        return ["model.safetensors"]
    if (folder / _INDEX).is_file():
        shards = _read_object(folder, _INDEX, "").get("weight_map")
        if not isinstance(shards, dict) or not shards:
            raise ModelError(f"{folder / _INDEX} lists no weights; copy the model's folder again.")
        names = sorted({str(name) for name in shards.values()})
        if missing := [name for name in names if not (folder / name).is_file()]:
            raise ModelError(f"{folder} lacks the weights {missing[0]}; copy the model's folder again.")
        return names
    if any(folder.glob("*.bin")):
        raise ModelError(
            f"The weights in {folder} are in PyTorch's pickle format, which can run any code; save the model with "
            "transformers as safetensors (save_pretrained)."
        )
    raise ModelError(f"{folder} has no weights: model.safetensors is missing. Copy the model's folder again.")


def _check_safetensors(path: Path) -> None:
    """Compare the file's size with what its header announces (8 bytes of length, JSON, then the tensors)."""
    damaged = ModelError(f"{path} is damaged or incomplete; copy or download the model again.")
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= min(size - 8, _LONGEST_HEADER):
            raise damaged
        try:
            header = json.loads(file.read(length))
            ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        except (ValueError, AttributeError, LookupError, TypeError):
            raise damaged from None
    if 8 + length + max(ends, default=0) != size:
        raise damaged


def _read_object(folder: Path, name: str, advice: str) -> dict[str, object]:
    path = folder / name
    if not path.is_file():
        raise ModelError(f"{folder} has no {name}; {advice}.")
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise ModelError(f"{path} is damaged ({error}); copy the model's folder again.") from error
    if not isinstance(content, dict):
        raise ModelError(f"{path} is damaged: it holds no JSON object. Copy the model's folder again.")
    return content
