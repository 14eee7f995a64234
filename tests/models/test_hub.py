"""What a model of the hub is called once it lies in Hugging Face's cache."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub.file_download import repo_folder_name

from models.hub import name_of


def test_a_snapshot_of_the_hub_has_the_name_it_was_asked_for_by(tmp_path: Path) -> None:
    for name in ("org/some-model.v2", "gpt2"):
        folder = repo_folder_name(repo_id=name, repo_type="model")
        assert name_of(tmp_path / folder / "snapshots" / "0123456789abcdef") == name


def test_another_folder_has_its_own_name(tmp_path: Path) -> None:
    assert name_of(tmp_path / "snapshots" / "abc") == "abc"
    assert name_of(Path()) == Path.cwd().name
