"""The drafter that comes with the package, made for the default target."""

from __future__ import annotations

from pathlib import Path

SHIPPED = Path(__file__).with_name("shipped") / "smollm2-135m-instruct-drafter"
"""Its folder: as `sled draft distill` made it, tokenizer included, since a device may have no other copy of it."""


def default_drafter(target: Path | None = None) -> Path | None:
    """Return the folder of the shipped drafter if it fits a target; None if it does not, or if there is none.

    It fits where the tokenizer is the same: it then proposes tokens that mean to the target what they mean to itself.
    It is worth the most where the target is the one that it was taught by, or one of its family.

    Args:
        target: folder of the target, or of its tokenizer; None for the default target, of which a device need not
            have a copy.

    Raises:
        TokenizerError: the tokenizer of the target cannot be read.
    """
    if not (SHIPPED / "model.onnx").is_file():
        return None
    return SHIPPED if target is None or _same_tokenizer(target, SHIPPED) else None


def default_choice(target: Path | None = None) -> str | None:
    """Return what a device drafts with if nothing else was chosen, in the words of `--drafter`.

    That is the shipped drafter behind a prompt lookup; None, and the rest, as for `default_drafter`.
    """
    folder = default_drafter(target)
    return f"lookup+{folder}" if folder else None


def _same_tokenizer(one: Path, other: Path) -> bool:
    files = [folder / "tokenizer.json" for folder in (one, other)]
    if not all(file.is_file() for file in files):
        return False
    if files[0].read_bytes() == files[1].read_bytes():
        return True
    from edge_agent.tokenizer import ChatTokenizer  # noqa: PLC0415 - brings transformers

    # The same tokenizer may be written out in more than one way.
    return ChatTokenizer.load(one).canonical_json == ChatTokenizer.load(other).canonical_json
