"""A fingerprint of everything that decides the last bits of a target's logits.

Verifiers with equal fingerprints write equal texts; between others, near-ties may fall differently.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import torch
import transformers

if TYPE_CHECKING:
    from pathlib import Path

ENGINE_VERSION = 2
"""Raised whenever the engine's arithmetic changes, even in the order of a sum."""

_WEIGHTS = ("*.safetensors", "*.bin")
_CHUNK_BYTES = 1 << 20


def numerics_fingerprint(folder: Path, dtype: str, device: str) -> str:
    """Return 16 hex characters that name how a target computes.

    Hashed are the weight files (names and contents), config.json, the dtype, the kind of device without its number,
    major and minor versions of torch and transformers, and `ENGINE_VERSION`.

    Args:
        folder: the target's Hugging Face folder.
        dtype: what the engine computes in, such as `bfloat16`.
        device: the engine's torch device, such as `cpu` or `cuda:1`.

    Raises:
        FileNotFoundError: the folder has no config.json or no weight file.
    """
    weights = sorted({path for pattern in _WEIGHTS for path in folder.glob(pattern)})
    if not weights:
        raise FileNotFoundError(f"{folder} holds no weight file ({', '.join(_WEIGHTS)}).")
    whole = hashlib.sha256()
    for path in (folder / "config.json", *weights):
        with path.open("rb") as stream:
            content = hashlib.sha256()
            while chunk := stream.read(_CHUNK_BYTES):
                content.update(chunk)
        whole.update(f"{path.name}\0{content.hexdigest()}\0".encode())
    versions = [_major_minor(module.__version__) for module in (torch, transformers)]
    for part in (dtype, device.partition(":")[0], *versions, str(ENGINE_VERSION)):
        whole.update(f"{part}\0".encode())
    return whole.hexdigest()[:16]


def _major_minor(version: str) -> str:
    return ".".join(version.split(".")[:2])
