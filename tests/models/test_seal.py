"""What the checksum of a model's weights is made of."""

from __future__ import annotations

from typing import TYPE_CHECKING

from models.seal import digest_of, seal_folder

if TYPE_CHECKING:
    from pathlib import Path


def test_every_weight_file_counts(tmp_path: Path) -> None:
    names = ["a.safetensors", "b.safetensors"]
    for name in names:
        (tmp_path / name).write_text(name)
    before = digest_of(tmp_path, names)
    (tmp_path / names[1]).write_text("other weights")
    assert digest_of(tmp_path, names) != before


def test_a_sealed_folder_has_the_digest_of_its_weights(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_text("weights")
    before = digest_of(tmp_path, ["a.safetensors"])
    seal_folder(tmp_path, source="test", version="1", files=["a.safetensors"])
    assert digest_of(tmp_path, ["a.safetensors"]) == before
