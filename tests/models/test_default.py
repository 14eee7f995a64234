"""The drafter that comes with the package is found, and used where it fits."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

from broker.port import claim
from models import default
from models.default import default_drafter
from models.pull import pull_target
from models.seal import check_seal
from sled import demo
from sled.cli import app
from tests.models.tiny import save_tokenizer

if TYPE_CHECKING:
    from pathlib import Path

    from sled.demo import DemoOptions

MOST_BYTES = 32_000_000


@pytest.fixture
def shipped(tiny_drafter: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A drafter of the tiny target in the place of the shipped one."""
    monkeypatch.setattr(default, "SHIPPED", tiny_drafter)
    return tiny_drafter


def test_it_fits_its_target_and_the_default_one(shipped: Path, tiny_target: Path) -> None:
    assert default_drafter(tiny_target) == shipped
    assert default_drafter() == shipped


def test_it_fits_a_tokenizer_written_out_otherwise(shipped: Path, tmp_path: Path) -> None:
    save_tokenizer(tmp_path)
    content = json.loads((tmp_path / "tokenizer.json").read_text())
    (tmp_path / "tokenizer.json").write_text(json.dumps(content, indent=7))
    assert default_drafter(tmp_path) == shipped


def test_it_does_not_fit_another_tokenizer(shipped: Path, tmp_path: Path) -> None:
    save_tokenizer(tmp_path)
    content = json.loads((tmp_path / "tokenizer.json").read_text())
    content["added_tokens"][0]["content"] = "<other>"
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    assert default_drafter(tmp_path) is None
    assert default_drafter(tmp_path / "nothing") is None


def test_without_weights_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(default, "SHIPPED", tmp_path)
    assert default_drafter() is None


def test_the_devices_of_a_demo_draft_with_it(shipped: Path, tiny_target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[DemoOptions] = []

    def run_demo(options: DemoOptions, console: object) -> None:
        asked.append(options)
        raise KeyboardInterrupt

    monkeypatch.setattr(demo, "run_demo", run_demo)
    CliRunner().invoke(app, ["demo", "--devices", "3", "--target", str(tiny_target), "abc"])
    (options,) = asked
    drafters = [device.drafters for device in options.devices]
    assert drafters == [(f"lookup+{shipped}",), (str(shipped),), ("lookup",)]


def test_a_device_without_torch_and_without_any_download_drafts_with_it(tiny_drafter: Path, tmp_path: Path) -> None:
    """It has only the extra [edge] and an empty cache; the tokenizer is the drafter's."""
    program = f"""
import sys
for name in ("torch", "accelerate", "gguf", "onnx", "onnxruntime_genai", "amqtt"):
    sys.modules[name] = None
from pathlib import Path
from models import default
default.SHIPPED = Path({str(tiny_drafter)!r})
from sled.cli import main
main()
"""
    log, port = tmp_path / "log", claim("127.0.0.1", 0)
    command = [sys.executable, "-c", program, "agent", "pi", "--broker", f"127.0.0.1:{port}"]
    with log.open("w") as out:
        agent = subprocess.Popen([*command, "--spool", str(tmp_path / "spool.db")], stderr=out)
        give_up = time.monotonic() + 120
        while "no broker answers" not in log.read_text():
            assert agent.poll() is None, log.read_text()
            assert time.monotonic() < give_up
            time.sleep(0.1)
        agent.send_signal(signal.SIGTERM)
        assert agent.wait(30) == 0
    assert f"loading the drafter: lookup+onnx:{tiny_drafter}" in log.read_text()


def test_the_shipped_folder_is_whole() -> None:
    folder = default_drafter()
    if folder is None:
        pytest.skip("the weights are not in this checkout")
    assert sum(path.stat().st_size for path in folder.iterdir()) <= MOST_BYTES
    assert check_seal(folder) is not None
    assert {"README.md", "LICENSE", "config.json", "tokenizer.json"} <= {path.name for path in folder.iterdir()}


@pytest.mark.real_model
def test_the_shipped_drafter_fits_the_default_target() -> None:
    if default_drafter() is None:
        pytest.skip("the weights are not in this checkout")
    assert default_drafter(pull_target()) is not None
