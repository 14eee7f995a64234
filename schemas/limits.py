"""Sizes and ranges that every message keeps to; larger input is refused before it is decoded.

The byte limits leave room for the largest legal message: a token id takes at most five bytes in msgpack.
"""

from __future__ import annotations

from typing import Final

ID_BYTES: Final = 8
"""Length of session ids, digests and boot nonces."""

MAX_CONTEXT_TOKENS: Final = 131_072
"""Prompt and output tokens of one session together."""

MAX_DRAFT_TOKENS: Final = 256
"""Draft tokens in one bundle."""

MAX_VERDICT_TOKENS: Final = 4_096
"""Tokens in one verdict; a ledger with more to say says the rest in the next one."""

MAX_RUN_TOKENS: Final = 1_024
"""Tokens that a verifier may be asked to generate by itself after a verdict."""

MAX_RELEASED_RANGES: Final = 4_096
"""Ranges of one session's output that the target did not confirm."""

MAX_STOP_TOKENS: Final = 64
MAX_STOP_STRINGS: Final = 16
MAX_STOP_CHARACTERS: Final = 256
MAX_PROMPT_CHARACTERS: Final = 400_000
MAX_MESSAGES: Final = 1_000
MAX_SENTENCE_CHARACTERS: Final = 1_000

MAX_CONTEXT_BYTES: Final = 1_400_000
MAX_DRAFT_BYTES: Final = 4_096
MAX_VERDICT_BYTES: Final = 32_768
MAX_STATE_BYTES: Final = 65_536
MAX_ASK_BYTES: Final = 2_000_000
MAX_ANSWER_BYTES: Final = 2_000_000
