"""What is said to OpenMP, and by whom."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from sled.spin import TURNS, spin_briefly


@pytest.mark.parametrize(
    ("said", "then"),
    [
        ({}, TURNS),
        ({"GOMP_SPINCOUNT": "7"}, "7"),
        ({"OMP_WAIT_POLICY": "active"}, None),
    ],
)
def test_who_says_it(monkeypatch: pytest.MonkeyPatch, said: dict[str, str], then: str | None) -> None:
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in said.items():
        monkeypatch.setenv(name, value)
    spin_briefly()
    assert os.environ.get("GOMP_SPINCOUNT") == then


def test_it_is_said_before_torch_is_loaded() -> None:
    """libgomp listens only while it is loaded."""
    program = "import sys, sled.cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False, timeout=60).returncode == 0
