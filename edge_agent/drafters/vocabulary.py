"""A tokenizer seen by its bytes: what every token spells, and which tokens spell a text."""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from tokenizers import Tokenizer

from edge_agent.drafters.drafter import DrafterError
from edge_agent.drafters.own_tokenizer import load_tokenizer

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

_KEPT_AS_BYTES = re.compile("([\udc80-\udcff]+)")
"""Bytes that are no UTF-8, in a text decoded with `surrogateescape`."""


_LONGEST_CHARACTER: Final = 4
"""Bytes of a character in UTF-8."""


class Next(NamedTuple):
    """The token that comes next in a text.

    Attributes:
        token: None where no token spells the text, or where it is open.
        settled: whether more text would leave it as it is.
    """

    token: int | None
    settled: bool


class Vocabulary:
    """The tokens of one tokenizer and the bytes that each of them stands for.

    Byte-level BPE (GPT-2, Llama 3, Qwen, SmolLM: `ByteLevel` decoders) and what SentencePiece writes (Llama 2, Gemma:
    `▁` for a space, `<0x0A>` for a byte; BPE or unigram) are known. In both, a token spells the same bytes wherever it
    stands, so any sequence of tokens is a string of bytes, and positions in it are exact even inside a character.

    A text is encoded as if in the middle of a longer one: nothing is put before it. What a tokenizer does to characters
    first (NFC and the like) is left out, since it would move positions.

    Args:
        written: the tokenizer written out (`ChatTokenizer.canonical_json`).
        begin: the special token that begins a text, as it is written; None if unknown.
        end: the special token that ends a text, as it is written; None if unknown.
        ends: token ids with which the model ends a text, so far as they are known.

    Attributes:
        size: the largest token id plus 1.
        specials: token ids that stand for no text, and how each is written.
        begin: the id of `begin`; None if there is none.
        ends: token ids that end a text, the usual one first.
        preamble: token ids that the tokenizer itself puts before a text.

    Raises:
        DrafterError: the tokenizer is of another kind.
    """

    def __init__(
        self, written: str, *, begin: str | None = None, end: str | None = None, ends: Sequence[int] = ()
    ) -> None:
        config: dict[str, Any] = json.loads(written)
        self._byte_level = _is_byte_level(config)
        spell = _spell_letters if self._byte_level else _SpellMarked(config)
        whole = Tokenizer.from_str(written)
        ids = whole.get_vocab(with_added_tokens=True)
        self.size = max(ids.values(), default=-1) + 1
        special = {added["id"]: str(added["content"]) for added in config["added_tokens"] if added["special"]}
        unknown = _unknown(config["model"])
        self._pieces: list[bytes | None] = [None] * self.size
        for written_so, token in ids.items():
            if token not in special and token != unknown:
                self._pieces[token] = spell(written_so) or None
        self._sorted = sorted(piece for piece in self._pieces if piece is not None)
        self.specials: Mapping[int, str] = special
        self._ids_of_specials = {content: token for token, content in special.items()}
        self.begin = None if begin is None else ids.get(begin)
        self.ends = _ends(None if end is None else ids.get(end), ends)
        self.preamble = _preamble(whole)
        self._space_before = _space_before(config)
        self._normal = _changes_characters(config)
        self._tokenizer = Tokenizer.from_str(json.dumps(_plain(config)))
        self._tokenizer.encode_special_tokens = True  # `<|im_end|>` written by somebody is text

    @classmethod
    def load(cls, folder: Path, written: str | None = None) -> Vocabulary:
        """Load the tokenizer of a Hugging Face model folder, and which of its tokens begin and end a text.

        Args:
            folder: of the model.
            written: its tokenizer written out, where that was loaded already.

        Raises:
            DrafterError: the folder has no usable tokenizer.json, or one of another kind.
        """
        names = _read(folder / "tokenizer_config.json")
        begin, end = (_content(names.get(name)) for name in ("bos_token", "eos_token"))
        try:
            written = written or load_tokenizer(folder).canonical_json
            return cls(written, begin=begin, end=end, ends=_stated_ends(folder))
        except DrafterError as error:
            raise DrafterError(f"{folder} cannot be used across vocabularies. {error}") from error

    def piece(self, token: int) -> bytes | None:
        """Return what a token spells, at least one byte; None for special, unknown and foreign ids."""
        return self._pieces[token] if 0 <= token < self.size else None

    def special(self, content: str) -> int | None:
        """Return the id of the special token that is written so."""
        return self._ids_of_specials.get(content)

    def opening(self, *, first: bool) -> bytes:
        """Return what the tokenizer puts before a text that a special token precedes, or nothing.

        Args:
            first: whether it is the first text at all.
        """
        return b" " if self._space_before == "always" or (first and self._space_before == "first") else b""

    def encode(self, data: bytes) -> list[int]:
        """Return the tokens of a text in the middle of a longer one; bytes that are no UTF-8 become byte tokens."""
        tokens: list[int] = []
        for run in _KEPT_AS_BYTES.split(data.decode("utf-8", "surrogateescape")):
            if run and "\udc80" <= run[0] <= "\udcff":
                tokens += self._encode_bytes(run.encode("utf-8", "surrogateescape"))
            elif run:
                tokens += self._tokenizer.encode(run, add_special_tokens=False).ids
        return tokens

    def next_token(self, before: bytes, text: bytes, *, final: bool = False) -> Next:
        """Return the token that begins `text`.

        It is the token that encoding `before` and `text` together puts there, or, where a token would reach across
        (whoever wrote `before` chose its tokens already), the first one of `text` alone. It is settled if no
        continuation can change it: a token that reaches from some place of the text beyond its end leaves, before that
        place, the tokens that the text up to there has by itself. (That holds for BPE and for unigram models, where
        the tokens before a boundary depend on nothing after it; see the `bpe` crate of GitHub's rust-gems for the
        argument.) So every place is tried from which the vocabulary has a token that goes on beyond the end.

        Args:
            before: the end of what precedes.
            text: what follows, so far.
            final: whether nothing follows, so that all is settled.
        """
        known = text if final else text[: max(0, complete(before + text) - len(before))]
        token = self._first(before, known) if known else None
        if token is None or final:
            return Next(token, settled=final or bool(known))
        if not self._stays(before, known, token):
            return Next(None, settled=False)
        return Next(token, settled=True)

    def _first(self, before: bytes, text: bytes) -> int | None:
        """Return the token that begins `text` as things stand."""
        data, start, at = before + text, len(before), 0
        for token in self.encode(data):
            piece = self.piece(token)
            if piece is None or not data.startswith(piece, at):
                break
            if at == start:
                # A combining character right behind would be part of it.
                return token if self._is_normal(data[: at + len(piece) + _LONGEST_CHARACTER]) else None
            at += len(piece)
            if at > start:
                break
        return self._first(b"", text) if before else None

    def _stays(self, before: bytes, text: bytes, token: int) -> bool:
        """Say whether `token` begins every text that begins with `text`."""
        length = len(self._pieces[token] or b"")
        if any(self._goes_on(text[start:]) for start in range(length)):
            return False
        places = {
            complete(text[:start]) for start in range(length, len(text)) if self._goes_on(text[start:])
        }  # a place inside a character stands for the character's beginning
        return all(place >= length and self._first(before, text[:place]) == token for place in places)

    def _goes_on(self, end: bytes) -> bool:
        """Say whether a token begins with these bytes and has more."""
        index = bisect_right(self._sorted, end)
        return index < len(self._sorted) and self._sorted[index].startswith(end)

    def _is_normal(self, data: bytes) -> bool:
        """Say whether the tokenizer would have left these characters as they are."""
        if self._normal is None:
            return True
        text = data.decode("utf-8", "ignore")
        return bool(self._normal.normalize_str(text) == text)

    def _encode_bytes(self, data: bytes) -> list[int]:
        if self._byte_level:
            return [token.id for token in self._tokenizer.model.tokenize("".join(_LETTERS[byte] for byte in data))]
        found = (self._tokenizer.token_to_id(f"<0x{byte:02X}>") for byte in data)
        return [token for token in found if token is not None]


def complete(data: bytes) -> int:
    """Return the length of `data` without a character that has only begun at its end."""
    for back in range(1, min(3, len(data)) + 1):
        byte = data[-back]
        if byte >= 0xC0:
            needed = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return len(data) - back if needed > back else len(data)
        if byte < 0x80:
            break
    return len(data)


# What tokens spell ------------------------------------------------------------------------------------------------


def _byte_letters() -> Iterator[str]:
    """Yield the letter that GPT-2's alphabet has for each byte: itself if visible, else one from U+0100 on."""
    others = 0
    for byte in range(256):
        if 33 <= byte <= 126 or 161 <= byte <= 172 or 174 <= byte <= 255:
            yield chr(byte)
        else:
            yield chr(256 + others)
            others += 1


_LETTERS: Final = list(_byte_letters())
_BYTES: Final = {letter: byte for byte, letter in enumerate(_LETTERS)}


def _spell_letters(written: str) -> bytes:
    """Spell a byte-level token; one that was added with letters outside the alphabet stands for its own text."""
    try:
        return bytes(_BYTES[letter] for letter in written)
    except KeyError:
        return written.encode()


class _SpellMarked:
    """Spells a token that has a mark for a space, and perhaps `<0x0A>` for a byte."""

    _BYTE = re.compile("<0x([0-9A-F]{2})>")

    def __init__(self, config: dict[str, Any]) -> None:
        self._mark = _space_mark(config)
        self._fallback = bool(config["model"].get("byte_fallback"))

    def __call__(self, written: str) -> bytes:
        if self._fallback and (found := self._BYTE.fullmatch(written)):
            return bytes.fromhex(found[1])
        return written.replace(self._mark, " ").encode()


def _is_byte_level(config: dict[str, Any]) -> bool:
    """Say whether tokens are written in letters for bytes, and refuse what is neither that nor marked spaces."""
    model = config["model"]
    if model["type"] not in {"BPE", "Unigram"}:
        raise DrafterError(
            f"Its tokenizer is a {model['type']} model, which does not say what its tokens spell; "
            "use a drafter with a BPE or unigram tokenizer."
        )
    if model.get("end_of_word_suffix") or model.get("continuing_subword_prefix"):
        raise DrafterError(
            "The tokens of its tokenizer have an affix at word ends, so what they spell depends on their neighbours; "
            "use a drafter with a byte-level or SentencePiece tokenizer."
        )
    if any(part["type"] == "ByteLevel" for part in _parts(config["decoder"])):
        return True
    _space_mark(config)
    return False


def _space_mark(config: dict[str, Any]) -> str:
    for part in _parts(config["decoder"]):
        if part["type"] == "Metaspace":
            return str(part["replacement"])
        if part["type"] == "Replace" and part["content"] == " " and "String" in part["pattern"]:
            return str(part["pattern"]["String"])
    raise DrafterError(
        "The decoder of its tokenizer is neither byte-level nor SentencePiece's, so what its tokens spell is not "
        "known; use a drafter with such a tokenizer."
    )


def _parts(part: Any) -> Iterator[dict[str, Any]]:
    """Yield a decoder, normalizer or pre-tokenizer and all that it is made of."""
    if part is None:
        return
    yield part
    for name in ("decoders", "normalizers", "pretokenizers"):
        for inner in part.get(name, ()):
            yield from _parts(inner)


def _unknown(model: dict[str, Any]) -> int | None:
    """Return the id that stands for whatever has no token."""
    if model["type"] == "Unigram":
        return model.get("unk_id")
    return model["vocab"].get(model["unk_token"]) if model.get("unk_token") else None


# What is put before a text, and done to it ------------------------------------------------------------------------


def _preamble(tokenizer: Tokenizer) -> tuple[int, ...]:
    encoded = tokenizer.encode("a")
    count = next((at for at, special in enumerate(encoded.special_tokens_mask) if not special), 0)
    return tuple(encoded.ids[:count])


def _space_before(config: dict[str, Any]) -> str:
    """Return whether a text gets a space put before it: `always`, only the `first`, or `never`."""
    for part in _parts(config["normalizer"]):
        if part["type"] == "Prepend":
            return "always"
    for part in _parts(config["pre_tokenizer"]):
        if part["type"] == "Metaspace":
            return str(part["prepend_scheme"])
        if part["type"] == "ByteLevel" and part["add_prefix_space"]:
            return "always"
    return "never"


def _changes_characters(config: dict[str, Any]) -> Any:
    """Return the normalizer without what only puts, marks or removes spaces; None if nothing is left."""
    parts = [
        part
        for part in _parts(config["normalizer"])
        if part["type"] not in {"Sequence", "Prepend", "Strip"} and not _marks_spaces(part)
    ]
    if not parts:
        return None
    normalizer = {"type": "Sequence", "normalizers": parts}
    return Tokenizer.from_str(json.dumps({**config, "normalizer": normalizer, "added_tokens": []})).normalizer


def _plain(config: dict[str, Any]) -> dict[str, Any]:
    """Return the tokenizer without anything that puts something before a text or changes its characters."""
    kept = [part for part in _parts(config["normalizer"]) if _marks_spaces(part)]
    pre_tokenizer = json.loads(json.dumps(config["pre_tokenizer"]))
    for part in _parts(pre_tokenizer):
        if part["type"] == "Metaspace":
            part["prepend_scheme"] = "never"
        if part["type"] == "ByteLevel":
            part["add_prefix_space"] = False
    return {
        **config,
        **_out_of_reach(config),
        "normalizer": {"type": "Sequence", "normalizers": kept} if kept else None,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": None,
        "truncation": None,
        "padding": None,
    }


def _out_of_reach(config: dict[str, Any]) -> dict[str, Any]:
    """Rename the special tokens of a unigram model, which would find them in a text like any other piece."""
    model = config["model"]
    if model["type"] != "Unigram":
        return {}
    special = {added["content"] for added in config["added_tokens"] if added["special"]}

    def renamed(written: str) -> str:
        return f"\U0010ffff{written}" if written in special else written

    return {
        "model": {**model, "vocab": [[renamed(piece), score] for piece, score in model["vocab"]]},
        "added_tokens": [{**added, "content": renamed(added["content"])} for added in config["added_tokens"]],
    }


def _marks_spaces(part: dict[str, Any]) -> bool:
    return bool(part["type"] == "Replace" and part["pattern"].get("String") == " ")


# What begins and ends a text --------------------------------------------------------------------------------------


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # such a file only helps
        return {}
    return found if isinstance(found, dict) else {}


def _content(token: Any) -> str | None:
    """Return how a token of tokenizer_config.json is written."""
    found = token.get("content") if isinstance(token, dict) else token
    return found if isinstance(found, str) else None


def _stated_ends(folder: Path) -> list[int]:
    """Return the ids with which the model says that it ends a text."""
    stated: list[int] = []
    for name in ("generation_config.json", "config.json"):
        found = _read(folder / name).get("eos_token_id")
        stated += found if isinstance(found, list) else [] if found is None else [found]
    return stated


def _ends(own: int | None, stated: Sequence[int]) -> tuple[int, ...]:
    """Put the tokenizer's own first if the model ends texts with it, else last."""
    if own is None:
        return tuple(dict.fromkeys(stated))
    return tuple(dict.fromkeys([own, *stated] if own in stated or not stated else [*stated, own]))
