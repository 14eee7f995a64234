"""A model folder from the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from models.error import ModelError

if TYPE_CHECKING:
    from models.progress import Progress

_SNAPSHOTS = "snapshots"
_REPOSITORY = "models--"
_WANTED = ["*.json", "*.safetensors", "*.jinja", "*.txt", "*.model", "LICENSE*"]


def fetch_folder(name: str, *, progress: Progress) -> Path:
    """Return the folder of a model on the hub (`org/name`) in Hugging Face's own cache, downloaded if need be.

    That cache resumes interrupted downloads and is shared with other programs.

    Raises:
        ModelError: no such model, no access, or no network.
    """
    from huggingface_hub import snapshot_download  # noqa: PLC0415 - an extra, and slow to import
    from huggingface_hub.errors import (  # noqa: PLC0415
        GatedRepoError,
        HFValidationError,
        RepositoryNotFoundError,
    )
    from huggingface_hub.utils.tqdm import (  # noqa: PLC0415
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    progress(f"Downloading {name} from the Hugging Face hub", 0, None)
    shown = not are_progress_bars_disabled()
    disable_progress_bars()
    try:
        return Path(snapshot_download(name, allow_patterns=_WANTED))
    except GatedRepoError as error:
        raise ModelError(
            f"{name} is open only to those who accepted its terms; accept them on its page at the Hugging Face hub, "
            "then set HF_TOKEN to a token of your account."
        ) from error
    except RepositoryNotFoundError as error:
        raise ModelError(
            f"The Hugging Face hub has no model {name}, or it is private; check the name, and HF_TOKEN."
        ) from error
    except (OSError, HFValidationError) as error:
        raise ModelError(
            f"{name} cannot be downloaded from the Hugging Face hub ({str(error).partition(chr(10))[0]}); check the "
            "network connection, or copy the model's folder here and give its path."
        ) from error
    finally:
        if shown:
            enable_progress_bars()


def name_of(folder: Path) -> str:
    """Return what a model is called: `org/name` for a folder of Hugging Face's cache, else the folder's own name.

    That cache keeps a model as `models--org--name/snapshots/<commit>`, and the commit says nothing to a person.
    """
    folder = folder.absolute()
    repository = folder.parent.parent.name
    if folder.parent.name == _SNAPSHOTS and repository.startswith(_REPOSITORY):
        return repository.removeprefix(_REPOSITORY).replace("--", "/")
    return folder.name
