"""Tiny targets of two architectures. They gain nothing from a second core, and lose much where others use it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from tests.models.distill.targets import ARCHITECTURES, save_target

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(autouse=True, scope="package")
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny llama of two layers."""
    return save_target(tmp_path_factory.mktemp("targets") / "tiny-llama", "llama")


@pytest.fixture(scope="session")
def qwen2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny qwen2 of three layers."""
    return save_target(tmp_path_factory.mktemp("targets") / "tiny-qwen2", "qwen2")


@pytest.fixture(scope="session", params=ARCHITECTURES)
def architecture_folder(request: pytest.FixtureRequest) -> Path:
    """Each of the two in turn."""
    folder: Path = request.getfixturevalue(request.param)
    return folder
