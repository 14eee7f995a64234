"""Which tokenizer a target has: all a verifier needs to know of it, since it never sees text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from schemas.digest import tokenizer_digest
from verifier.engine.errors import EngineError

if TYPE_CHECKING:
    from pathlib import Path


def target_tokenizer(folder: Path) -> str:
    """Return the digest of the tokenizer in a Hugging Face folder.

    Raises:
        EngineError: there is none that can be read.
    """
    from transformers import AutoTokenizer  # noqa: PLC0415 -- takes a second

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        return tokenizer_digest(tokenizer.backend_tokenizer.to_str())
    except Exception as error:
        raise EngineError(
            f"The tokenizer of the target in {folder} cannot be read ({type(error).__name__}: {error}); "
            "copy its tokenizer files again."
        ) from error
