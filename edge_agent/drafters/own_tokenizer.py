"""The tokenizer that lies beside a drafter's model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edge_agent.drafters.drafter import DrafterError

if TYPE_CHECKING:
    from pathlib import Path

    from edge_agent.tokenizer import ChatTokenizer


def load_tokenizer(folder: Path) -> ChatTokenizer:
    """Read the tokenizer in a folder.

    Raises:
        DrafterError: it cannot be used.
    """
    from edge_agent.tokenizer import ChatTokenizer, TokenizerError  # noqa: PLC0415 -- brings transformers

    try:
        return ChatTokenizer.load(folder)
    except TokenizerError as error:
        raise DrafterError(str(error)) from error


def tokenizer_folder(model: Path) -> Path | None:
    """Return where a model's tokenizer lies: in its folder, or beside or above its .onnx file; None if nowhere."""
    places = [model.parent, model.parent.parent] if model.is_file() else [model]
    return next((place for place in places if (place / "tokenizer.json").is_file()), None)
