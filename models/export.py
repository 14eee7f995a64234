"""Making an ONNX drafter from a Hugging Face folder, with the model builder of onnxruntime-genai."""

from __future__ import annotations

import re
import shutil
from importlib.metadata import version
from typing import TYPE_CHECKING, Literal

from models.cache import building, locked, models_folder
from models.child import ChildError, run_python
from models.error import ModelError
from models.folder import check_folder
from models.progress import silent
from models.seal import check_seal, digest_of, seal_folder

if TYPE_CHECKING:
    from pathlib import Path

    from models.progress import Progress

Precision = Literal["int8", "int4", "fp32"]
"""How the weights are stored; embeddings stay in float32."""

_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "config.json",
    "generation_config.json",
    "LICENSE",
)
"""Copied as they are, so that the drafter's tokenizer is the target's to the byte."""

_PERCENT = re.compile(r"(\d+)%\|")


def export_drafter(
    target_folder: Path,
    out: Path | None = None,
    *,
    precision: Precision = "int8",
    progress: Progress = silent,
) -> Path:
    """Export a model as an ONNX drafter for the CPU and return its folder; one that is there already is reused.

    The output head computes only the last position, since a drafter never needs another one.

    Args:
        target_folder: a Hugging Face folder (`pull_target`).
        out: the folder to make; `<target name>-onnx-<precision>` in `models_folder()` if None.
        precision: of the weights.
        progress: told how far each step is.

    Raises:
        ModelError: the model cannot be exported, or `out` holds something else; nothing half-made is left.
    """
    weights = check_folder(target_folder)
    out = out or models_folder() / f"{target_folder.name}-onnx-{precision}"
    source = f"{precision} export of {target_folder.name} (weights {digest_of(target_folder, weights)})"
    with locked(out, progress):
        if _is_made(out, source, progress):
            return out
        needs = 2 * sum((target_folder / name).stat().st_size for name in weights)
        with building(out, needs=needs) as partial:
            _build(target_folder, partial, precision, progress)
            for name in _TOKENIZER_FILES:
                if (target_folder / name).is_file():
                    shutil.copyfile(target_folder / name, partial / name)
            progress("Trying the drafter", 0, None)
            _try_drafter(partial)
            files = sorted(path.name for path in partial.glob("*.onnx*"))
            seal_folder(partial, source=source, version=_builder_version(), files=files)
    return out


def _is_made(out: Path, source: str, progress: Progress) -> bool:
    """Say whether `out` is this very export, whole; refuse to replace anything that was not made here."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    progress("Checking the drafter", 0, None)
    try:
        seal = check_seal(out) if out.is_dir() else None
    except ModelError as damage:
        progress(f"Making it again: {damage}", 0, None)
        return False
    if seal is None or not re.match(r"\w+ export of ", seal.source):
        raise ModelError(f"{out} exists and is no exported drafter; choose another folder, or remove it.")
    return seal.source == source


def _build(target: Path, out: Path, precision: Precision, progress: Progress) -> None:
    title = f"Exporting {target.name} to ONNX ({precision})"

    def advance(line: str) -> None:
        if percent := _PERCENT.search(line):
            progress(title, int(percent[1]), 100)

    progress(title, 0, 100)
    downloads = (
        out.resolve() / "downloads"
    )  # the builder, which runs in there, insists on a folder for models of the hub
    downloads.mkdir()
    builder = ["-m", "onnxruntime_genai.models.builder", "-e", "cpu", "-p", precision, "-c", str(downloads)]
    options = ["--extra_options", "prune_lm_head=true", "hf_token=false"]
    try:
        run_python(
            [*builder, "-i", str(target.resolve()), "-o", str(out.resolve()), *options],
            on_line=advance,
            folder=downloads,
            environment={"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"},
        )
    except ChildError as error:
        raise ModelError(
            f"{target} cannot be exported to ONNX. Check that onnxruntime-genai, onnx and onnx-ir are installed "
            f"(pip install 'sled-mqtt[models]') and that the builder knows this kind of model. It said:\n{error}"
        ) from error
    shutil.rmtree(downloads, ignore_errors=True)  # the builder removes it itself when it stayed empty


def _try_drafter(folder: Path) -> None:
    from edge_agent.drafters.drafter import DrafterError  # noqa: PLC0415 - brings onnxruntime
    from edge_agent.drafters.onnx import OnnxDrafter  # noqa: PLC0415 - brings onnxruntime

    try:
        OnnxDrafter(folder).propose([0])
    except DrafterError as error:
        raise ModelError(f"The exported drafter does not work: {error}") from error


def _builder_version() -> str:
    return f"onnxruntime-genai {version('onnxruntime-genai')}"
