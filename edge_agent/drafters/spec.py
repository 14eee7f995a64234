"""Which drafters a device uses: the words of the command line, and opening what they name."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

import msgspec

from edge_agent.drafters.chain import Candidate, DrafterChain
from edge_agent.drafters.drafter import DrafterError
from edge_agent.drafters.lookup import LONGEST_MATCH, SHORTEST_MATCH, PromptLookup
from edge_agent.drafters.lookup_first import LookupFirst
from edge_agent.drafters.own_tokenizer import load_tokenizer, tokenizer_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from edge_agent.drafters.drafter import Drafter

FORMS: Final = (
    "FOLDER or onnx:FOLDER, transformers:FOLDER, cross: before one of these for a model with another tokenizer "
    "(cross:FOLDER), lookup or lookup:LONGEST_MATCH, or lookup+ before any that has a model (lookup+onnx:FOLDER)"
)
_LOOKUP = re.compile(r"lookup(?::([^+]*))?(?:\+(.*))?", re.DOTALL)
_KIND = re.compile(r"([A-Za-z][A-Za-z0-9_-]+):(.*)", re.DOTALL)  # two letters or more: C:\ is a folder


class DrafterSpec(msgspec.Struct, frozen=True):
    """One drafter as it was asked for.

    Attributes:
        model: what runs the model; None for prompt lookup alone.
        folder: of the model; None for prompt lookup alone.
        lookup: tokens of the longest match of a prompt lookup; 0 for none.
        cross: whether the model has another tokenizer than the target, and drafts through text.
    """

    model: Literal["onnx", "transformers"] | None = None
    folder: Path | None = None
    lookup: int = 0
    cross: bool = False

    def __str__(self) -> str:
        lookup = "lookup" if self.lookup == LONGEST_MATCH else f"lookup:{self.lookup}"
        model = f"{'cross:' * self.cross}{self.model}:{self.folder}"
        return "+".join([lookup] * bool(self.lookup) + [model] * bool(self.model))

    def across(self) -> DrafterSpec:
        """Return the same model, drafting through text."""
        return msgspec.structs.replace(self, cross=True)


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
    return msgspec.structs.replace(model, lookup=longest)


def _parse_model(part: str, text: str) -> DrafterSpec:
    kind = _KIND.fullmatch(part)
    cross = kind is not None and kind[1] == "cross"
    if cross and kind is not None:
        part = kind[2].strip()
        kind = _KIND.fullmatch(part)
    name, folder = ("onnx", part) if kind is None else (kind[1], kind[2].strip())
    if not folder or name not in {"onnx", "transformers"}:
        raise ValueError(f"The drafter {text!r} is not known; write {FORMS}.")
    return DrafterSpec("onnx" if name == "onnx" else "transformers", Path(folder).expanduser(), cross=cross)


def _longest(value: str, text: str) -> int:
    if not (value.isascii() and value.isdigit() and int(value) >= SHORTEST_MATCH):
        raise ValueError(
            f"In the drafter {text!r}, {value!r} should be the longest match in tokens, {SHORTEST_MATCH} or more, "
            f"as in lookup:{LONGEST_MATCH}."
        )
    return int(value)


class _Given(msgspec.Struct, frozen=True):
    """What all drafters are opened with; see `open_drafter`."""

    threads: int
    vocab_limit: int | None
    tokenizer: str | None
    target: Path | None


def open_drafter(
    specs: Sequence[DrafterSpec],
    *,
    threads: int = 1,
    vocab_limit: int | None = None,
    tokenizer: str | None = None,
    target: Path | None = None,
) -> DrafterChain:
    """Open the first drafter that works; the others take over in order when it fails.

    Args:
        specs: in order of preference, at least one.
        threads: cores that one token may use.
        vocab_limit: token ids of the target's tokenizer: others are never proposed, and a drafter that knows fewer
            does not fit.
        tokenizer: the target's tokenizer written out (`ChatTokenizer.canonical_json`); a model whose folder has a
            different one does not fit, unless it drafts through text. None leaves the check out.
        target: the folder of the target's tokenizer; needed by drafters that draft through text.

    Raises:
        DrafterError: none of them works; the message says of each why.
        ValueError: `specs` is empty.
    """
    if not specs:
        raise ValueError(f"No drafter was named; write {FORMS}.")
    given = _Given(threads, vocab_limit, tokenizer, target)
    candidates = [Candidate(str(spec), _opener(spec, given)) for spec in specs]
    return DrafterChain(candidates, vocab_size=vocab_limit)


def _opener(spec: DrafterSpec, given: _Given) -> Callable[[], Drafter]:
    def opened() -> Drafter:
        if spec.folder is None:
            return PromptLookup(longest=spec.lookup, vocab_limit=given.vocab_limit)
        model = _open_model(spec, spec.folder, given)
        return LookupFirst(PromptLookup(longest=spec.lookup), model) if spec.lookup else model

    return opened


def _open_model(spec: DrafterSpec, folder: Path, given: _Given) -> Drafter:
    opens = _OPENERS[spec.model or "onnx"]
    if not spec.cross:
        if given.tokenizer is not None:
            _check_tokenizer(spec, folder, given.tokenizer)
        return opens(folder, given.threads, given.vocab_limit)
    if given.target is None:
        raise DrafterError(f"Drafting with {spec} needs the target's tokenizer; say where it is.")
    return _open_across(folder, given.target, opens, given)


def _open_across(folder: Path, target_folder: Path, opens: _Opens, given: _Given) -> Drafter:
    from edge_agent.drafters.chat_prompt import ChatPrompt  # noqa: PLC0415
    from edge_agent.drafters.cross_vocabulary import CrossVocabulary  # noqa: PLC0415 -- brings tokenizers
    from edge_agent.drafters.vocabulary import Vocabulary  # noqa: PLC0415

    place = tokenizer_folder(folder)
    if place is None:
        raise DrafterError(
            f"{folder} has no tokenizer.json, so what its tokens spell is not known; "
            "put the model's tokenizer beside it."
        )
    own_chat, target_chat = load_tokenizer(place), load_tokenizer(target_folder)
    if own_chat.canonical_json == target_chat.canonical_json:  # then the way through text would only cost time
        return opens(folder, given.threads, given.vocab_limit)
    own = Vocabulary.load(place, own_chat.canonical_json)
    target = Vocabulary.load(target_folder, target_chat.canonical_json)
    inner = opens(folder, given.threads, own.size)
    retell = ChatPrompt(target_chat, target, own_chat).retold
    return CrossVocabulary(inner, own, target, vocab_limit=given.vocab_limit, retell=retell)


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


_Opens: TypeAlias = "Callable[[Path, int, int | None], Drafter]"
_OPENERS: Final[dict[str, _Opens]] = {"onnx": _open_onnx, "transformers": _open_transformers}


def _check_tokenizer(spec: DrafterSpec, folder: Path, tokenizer: str) -> None:
    """Refuse a model with another tokenizer: its ids would mean other words."""
    place = tokenizer_folder(folder)
    if place is not None and load_tokenizer(place).canonical_json != tokenizer:
        raise DrafterError(
            f"The tokenizer in {place} is not the target's, so its token ids mean other words; "
            f"use a drafter with the target's tokenizer, or draft through text with {spec.across()}."
        )
