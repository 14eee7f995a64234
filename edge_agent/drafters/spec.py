"""Which drafters a device uses: the words of the command line, and opening what they name."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

import msgspec

from edge_agent.drafters.chain import Candidate, DrafterChain
from edge_agent.drafters.drafter import DrafterError
from edge_agent.drafters.lookup import LONGEST_MATCH, SHORTEST_MATCH, PromptLookup
from edge_agent.drafters.lookup_first import LookupFirst

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from edge_agent.drafters.drafter import Drafter

FORMS: Final = (
    "FOLDER or onnx:FOLDER, transformers:FOLDER, lookup or lookup:LONGEST_MATCH, or lookup+ before one of the first "
    "three (lookup+onnx:FOLDER)"
)
_LOOKUP = re.compile(r"lookup(?::([^+]*))?(?:\+(.*))?", re.DOTALL)
_KIND = re.compile(r"([A-Za-z][A-Za-z0-9_-]+):(.*)", re.DOTALL)  # two letters or more: C:\ is a folder


class DrafterSpec(msgspec.Struct, frozen=True):
    """One drafter as it was asked for.

    Attributes:
        model: what runs the model; None for prompt lookup alone.
        folder: of the model; None for prompt lookup alone.
        lookup: tokens of the longest match of a prompt lookup; 0 for none.
    """

    model: Literal["onnx", "transformers"] | None = None
    folder: Path | None = None
    lookup: int = 0

    def __str__(self) -> str:
        lookup = "lookup" if self.lookup == LONGEST_MATCH else f"lookup:{self.lookup}"
        return "+".join([lookup] * bool(self.lookup) + [f"{self.model}:{self.folder}"] * bool(self.model))


def parse_drafter(text: str) -> DrafterSpec:
    """Read a drafter from the command line.

    A folder alone is an ONNX model. A folder whose name looks like another form is written with its path: `./lookup`.

    Raises:
        ValueError: the text is none of the forms; the message quotes it and shows what is possible.
    """
    text = text.strip()
    found = _LOOKUP.fullmatch(text)
    if found is None:
        return _parse_model(text, text)
    longest = LONGEST_MATCH if found[1] is None else _longest(found[1], text)
    if found[2] is None:
        return DrafterSpec(lookup=longest)
    model = _parse_model(found[2].strip(), text)
    return DrafterSpec(model.model, model.folder, longest)


def _parse_model(part: str, text: str) -> DrafterSpec:
    if (kind := _KIND.fullmatch(part)) is None:
        name, folder = "onnx", part
    else:
        name, folder = kind[1], kind[2].strip()
    if not folder or name not in {"onnx", "transformers"}:
        raise ValueError(f"The drafter {text!r} is not known; write {FORMS}.")
    return DrafterSpec("onnx" if name == "onnx" else "transformers", Path(folder).expanduser())


def _longest(value: str, text: str) -> int:
    if not (value.isascii() and value.isdigit() and int(value) >= SHORTEST_MATCH):
        raise ValueError(
            f"In the drafter {text!r}, {value!r} should be the longest match in tokens, {SHORTEST_MATCH} or more, "
            f"as in lookup:{LONGEST_MATCH}."
        )
    return int(value)


def open_drafter(
    specs: Sequence[DrafterSpec], *, threads: int = 1, vocab_limit: int | None = None, tokenizer: str | None = None
) -> DrafterChain:
    """Open the first drafter that works; the others take over in order when it fails.

    Args:
        specs: in order of preference, at least one.
        threads: cores that one token may use.
        vocab_limit: token ids of the target's tokenizer: others are never proposed, and a drafter that knows fewer
            does not fit.
        tokenizer: the target's tokenizer written out (`ChatTokenizer.canonical_json`); a model whose folder has a
            different one does not fit. None leaves the check out.

    Raises:
        DrafterError: none of them works; the message says of each why.
        ValueError: `specs` is empty.
    """
    if not specs:
        raise ValueError(f"No drafter was named; write {FORMS}.")
    candidates = [Candidate(str(spec), _opener(spec, threads, vocab_limit, tokenizer)) for spec in specs]
    return DrafterChain(candidates, vocab_size=vocab_limit)


def _opener(spec: DrafterSpec, threads: int, vocab_limit: int | None, tokenizer: str | None) -> Callable[[], Drafter]:
    def opened() -> Drafter:
        if spec.folder is None:
            return PromptLookup(longest=spec.lookup, vocab_limit=vocab_limit)
        if tokenizer is not None:
            _check_tokenizer(spec.folder, tokenizer)
        model = _OPENERS[spec.model or "onnx"](spec.folder, threads, vocab_limit)
        return LookupFirst(PromptLookup(longest=spec.lookup), model) if spec.lookup else model

    return opened


def _open_onnx(folder: Path, threads: int, vocab_limit: int | None) -> Drafter:
    from edge_agent.drafters.onnx import OnnxDrafter  # noqa: PLC0415 -- prompt lookup needs no onnxruntime

    return OnnxDrafter(folder, threads=threads, vocab_limit=vocab_limit)


def _open_transformers(folder: Path, threads: int, vocab_limit: int | None) -> Drafter:
    try:
        from transformers.utils import logging as transformers_logging  # noqa: PLC0415

        from edge_agent.drafters.transformers import TransformersDrafter  # noqa: PLC0415 -- a device has no torch
    except ImportError as error:
        raise DrafterError(
            f"Drafting with transformers:{folder} needs torch and transformers, which are not installed here "
            f"({error}); install them (pip install torch transformers), or export the model to ONNX."
        ) from error
    transformers_logging.disable_progress_bar()
    return TransformersDrafter(folder, threads=threads, vocab_limit=vocab_limit)


_OPENERS: Final = {"onnx": _open_onnx, "transformers": _open_transformers}


def _check_tokenizer(folder: Path, tokenizer: str) -> None:
    """Refuse a model with another tokenizer: its ids would mean other words."""
    from edge_agent.tokenizer import ChatTokenizer, TokenizerError  # noqa: PLC0415 -- brings transformers

    place = tokenizer_folder(folder)
    if place is None:
        return
    try:
        own = ChatTokenizer.load(place).canonical_json
    except TokenizerError as error:
        raise DrafterError(str(error)) from error
    if own != tokenizer:
        raise DrafterError(
            f"The tokenizer in {place} is not the target's, so its token ids mean other words; "
            "use a drafter with the target's tokenizer."
        )


def tokenizer_folder(model: Path) -> Path | None:
    """Return where a model's tokenizer lies: in its folder, or beside or above its .onnx file; None if nowhere."""
    places = [model.parent, model.parent.parent] if model.is_file() else [model]
    return next((place for place in places if (place / "tokenizer.json").is_file()), None)
