"""A folder of the cache comes into being whole or not at all."""

from __future__ import annotations

import errno
import multiprocessing
from typing import TYPE_CHECKING

import pytest

from models.cache import building, locked, models_folder, replacing
from models.error import ModelError
from models.progress import silent

if TYPE_CHECKING:
    from multiprocessing.synchronize import Event
    from pathlib import Path


def test_models_folder_follows_the_variable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SLED_CACHE", str(tmp_path))
    assert models_folder() == tmp_path / "models"
    monkeypatch.delenv("SLED_CACHE")
    assert models_folder().parts[-2:] == ("sled", "models")


def test_building_appears_at_the_end_readable_by_all(tmp_path: Path) -> None:
    final = tmp_path / "model"
    with building(final, needs=1) as partial:
        (partial / "weights").write_text("all of them")
        (partial / "weights").chmod(0o600)
        assert not final.exists()
    assert (final / "weights").read_text() == "all of them"
    assert (final.stat().st_mode & 0o777, (final / "weights").stat().st_mode & 0o777) == (0o755, 0o644)
    assert list(tmp_path.iterdir()) == [final]


def test_building_replaces_a_damaged_folder(tmp_path: Path) -> None:
    final = tmp_path / "model"
    final.mkdir()
    (final / "old").touch()
    with building(final, needs=1) as partial:
        (partial / "new").touch()
    assert [path.name for path in final.iterdir()] == ["new"]


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, ValueError])
def test_building_interrupted_leaves_nothing(tmp_path: Path, interruption: type[BaseException]) -> None:
    def build() -> None:
        with building(tmp_path / "model", needs=1) as partial:
            (partial / "half").touch()
            raise interruption

    with pytest.raises(interruption):
        build()
    assert list(tmp_path.iterdir()) == []


def test_building_removes_what_a_killed_process_left(tmp_path: Path) -> None:
    (tmp_path / ".model.partial-xyz").mkdir()
    (tmp_path / ".model-two.partial-xyz").mkdir()
    with building(tmp_path / "model", needs=1):
        assert not (tmp_path / ".model.partial-xyz").exists()
    assert (tmp_path / ".model-two.partial-xyz").exists()


def test_replacing_keeps_the_file_until_the_new_one_is_whole(tmp_path: Path) -> None:
    final = tmp_path / "note.json"

    def write_half() -> None:
        with replacing(final) as partial:
            partial.write_text("ne")
            raise KeyboardInterrupt

    for text in ("old", "new"):
        with replacing(final) as partial:
            partial.write_text(text)
    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert final.read_text() == "new"
    with replacing(final) as partial:
        partial.write_text("newest")
    assert [path.name for path in tmp_path.iterdir()] == ["note.json"]
    assert final.read_text() == "newest"


def test_building_without_room_says_so_before_it_begins(tmp_path: Path) -> None:
    with (
        pytest.raises(ModelError, match=r"needs 1000000\.0 GB in .*make room"),
        building(tmp_path / "model", needs=10**15),
    ):
        pytest.fail("began")


def test_building_on_a_disk_that_fills_up_is_a_sentence(tmp_path: Path) -> None:
    with (
        pytest.raises(ModelError, match=r"is full; make room, or choose .* --out or SLED_CACHE"),
        building(tmp_path / "model", needs=1),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert list(tmp_path.iterdir()) == []


def test_locked_place_that_cannot_be_written_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(ModelError, match="cannot be written or read"),
        locked(tmp_path / "file" / "model", silent),
    ):
        pytest.fail("locked")


def hold(final: Path, held: Event, release: Event) -> None:
    """Hold the lock until told to let go (runs in another process)."""
    with locked(final, silent):
        held.set()
        release.wait(30)


def test_locked_waits_for_the_other_process_and_says_so(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    held, release = context.Event(), context.Event()
    other = context.Process(target=hold, args=(tmp_path / "model", held, release))
    other.start()
    assert held.wait(30)
    steps: list[str] = []

    def progress(step: str, done: int, total: int | None) -> None:
        steps.append(step)
        release.set()

    with locked(tmp_path / "model", progress):
        pass
    other.join(30)
    assert steps == ["Waiting for another process that makes model"]
