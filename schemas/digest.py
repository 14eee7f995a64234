"""Digests that both sides compute alike: the prefix chain of a session's log, and of a tokenizer.

The chain has one digest per output position, so that a verifier can check any prefix an agent names without hashing
the whole log again: d(0) covers the prompt, d(i) = BLAKE2b-64(d(i-1) ‖ token i-1 as four little-endian bytes).
Eight bytes are enough to tell honest logs apart (a mismatch costs a Resync); they are no defence against forgery.
"""

from __future__ import annotations

import hashlib
import json
from array import array
from typing import TYPE_CHECKING

from schemas.limits import ID_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


def prompt_digest(prompt: Sequence[int]) -> bytes:
    """Return d(0), the digest of a log that holds no output yet."""
    words = b"".join(token.to_bytes(4, "little") for token in prompt)
    return hashlib.blake2b(words, digest_size=ID_BYTES, person=b"sled-prompt").digest()


def next_digest(digest: bytes, token: int) -> bytes:
    """Return the digest after one more output token."""
    return hashlib.blake2b(digest + token.to_bytes(4, "little"), digest_size=ID_BYTES).digest()


class Log:
    """Output tokens that only grow, with the digest at every length.

    Shared by the agent's session and the verifier's ledger: both hold a prefix of the same log within an epoch.
    """

    __slots__ = ("_digests", "_prompt", "_tokens")

    def __init__(self, prompt: Sequence[int], tokens: Iterable[int] = ()) -> None:
        self._prompt = tuple(prompt)
        self._tokens = array("q")
        self._digests = [prompt_digest(self._prompt)]
        self.extend(tokens)

    def __len__(self) -> int:
        return len(self._tokens)

    @property
    def prompt(self) -> tuple[int, ...]:
        """The prompt's token ids."""
        return self._prompt

    def extend(self, tokens: Iterable[int]) -> None:
        """Append output tokens."""
        for token in tokens:
            self._digests.append(next_digest(self._digests[-1], token))
            self._tokens.append(token)

    def tokens(self, start: int = 0, end: int | None = None) -> tuple[int, ...]:
        """Return the output tokens [start, end)."""
        return tuple(self._tokens[start:end])

    def digest(self, length: int | None = None) -> bytes:
        """Return the digest of the prompt and the first `length` output tokens (all of them if None).

        Raises:
            IndexError: the log is shorter than that.
        """
        if length is None:
            return self._digests[-1]
        if length < 0:
            raise IndexError(f"a log has no length {length}")
        return self._digests[length]

    def digest_with(self, base: int, tokens: Iterable[int]) -> bytes:
        """Return the digest of the prompt, the first `base` output tokens and then `tokens`."""
        digest = self.digest(base)
        for token in tokens:
            digest = next_digest(digest, token)
        return digest

    def sequence(self) -> tuple[int, ...]:
        """Return prompt and output as one sequence of token ids."""
        return self._prompt + tuple(self._tokens)


def tokenizer_digest(tokenizer_json: str) -> str:
    """Return 16 hexadecimal digits over what a tokenizer does.

    Args:
        tokenizer_json: the tokenizer as the `tokenizers` library writes it. Two tokenizers with equal digests turn
            any text into the same ids and back. Truncation and padding are left out: they are settings of a call.
            So is the padding of a model's vocabulary, which no tokenizer knows of.

    Raises:
        ValueError: the text is not a JSON object.
    """
    rules = json.loads(tokenizer_json)
    if not isinstance(rules, dict):
        raise ValueError("a tokenizer file must hold one JSON object")  # noqa: TRY004 -- bad input, not a bad call
    for setting in ("version", "truncation", "padding"):
        rules.pop(setting, None)
    canonical = json.dumps(rules, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.blake2b(canonical.encode(), digest_size=8, person=b"sled-tokenizer").hexdigest()
