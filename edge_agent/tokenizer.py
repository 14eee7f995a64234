"""Text to token ids and back, by the target's tokenizer; needs transformers, never torch."""

from __future__ import annotations

import json
import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol, cast

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path


class TokenizerError(Exception):
    """A tokenizer cannot be loaded; the message says which file is wrong and what to do."""


class _Backend(Protocol):
    """The part of `tokenizers.Tokenizer` used here."""

    def to_str(self) -> str: ...
    def no_padding(self) -> None: ...
    def no_truncation(self) -> None: ...


class _Tokenizer(Protocol):
    """The part of a Hugging Face fast tokenizer used here; transformers itself is untyped."""

    chat_template: str | dict[str, str] | None
    eos_token_id: int | None
    backend_tokenizer: _Backend

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]: ...
    def decode(self, tokens: list[int], *, skip_special_tokens: bool, clean_up_tokenization_spaces: bool) -> str: ...
    def get_vocab(self) -> dict[str, int]: ...
    def apply_chat_template(
        self, messages: list[dict[str, str]], *, add_generation_prompt: bool, tokenize: bool
    ) -> str: ...


class ChatTokenizer:
    """The tokenizer of one model folder.

    Attributes:
        vocab_size: the largest token id plus 1, added tokens included.
        canonical_json: the tokenizer written out by its backend, without padding and truncation settings: the same
            text wherever the same tokenizer is loaded, so a digest of it tells two tokenizers apart.
    """

    def __init__(self, tokenizer: _Tokenizer) -> None:
        self._tokenizer = tokenizer
        # Both are settings of a caller, not of the vocabulary, and would change the digest.
        tokenizer.backend_tokenizer.no_padding()
        tokenizer.backend_tokenizer.no_truncation()
        self.canonical_json = tokenizer.backend_tokenizer.to_str()
        self.vocab_size = max(tokenizer.get_vocab().values()) + 1

    @classmethod
    def load(cls, folder: Path) -> ChatTokenizer:
        """Load the tokenizer of a Hugging Face model folder (of a target, or of an exported drafter).

        Raises:
            TokenizerError: the folder has no usable tokenizer.json.
        """
        if not (folder / "tokenizer.json").is_file():
            raise TokenizerError(
                f"{folder} has no tokenizer.json; give the folder of a model with its tokenizer beside it."
            )
        try:
            loaded = _loader(folder).from_pretrained(str(folder), local_files_only=True)
        except Exception as error:  # the backend raises bare Exception for a file it cannot read
            raise TokenizerError(
                f"The tokenizer in {folder} cannot be read ({error}); copy its tokenizer files again."
            ) from error
        if not hasattr(loaded, "backend_tokenizer"):
            raise TokenizerError(
                f"The tokenizer in {folder} has no fast implementation; "
                "convert it with transformers so that a tokenizer.json is written."
            )
        return cls(cast("_Tokenizer", loaded))

    @property
    def end_token(self) -> int | None:
        """The id that the tokenizer itself names as the end of a text, if it does."""
        return self._tokenizer.eos_token_id

    def encode_chat(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """Turn a conversation into the token ids of a prompt that asks for the assistant's next message.

        A tokenizer without a chat template (a base model) gets the text of the last message of the user, encoded as
        `encode_text` does.

        Args:
            messages: in order, each with the keys `role` and `content`.

        Raises:
            ValueError: there is nothing to answer, a message is malformed, or the template refuses the conversation.
        """
        for number, message in enumerate(messages, start=1):
            missing = [key for key in ("role", "content") if not isinstance(message.get(key), str)]
            if missing:
                raise ValueError(f"Message {number} has no text under {missing[0]!r}; each needs role and content.")
        asked = [message["content"] for message in messages if message["role"] == "user"]
        if not any(message["content"].strip() for message in messages):
            raise ValueError("The prompt is empty; write something for the model to answer.")
        if self._tokenizer.chat_template is None:
            if not asked:
                raise ValueError(
                    "The conversation has no message of the user, and this model has no chat template; add one."
                )
            return self.encode_text(asked[-1])
        return self._tokenizer.encode(self._render(messages), add_special_tokens=False)

    def encode_text(self, text: str) -> list[int]:
        """Turn plain text into token ids, with the special tokens that this tokenizer adds by default.

        Raises:
            ValueError: the text is empty.
        """
        if not text.strip():
            raise ValueError("The prompt is empty; write something for the model to continue.")
        return self._tokenizer.encode(text, add_special_tokens=True)

    def decode(self, tokens: list[int]) -> str:
        """Turn token ids into text, special tokens left out; what `Detokenizer` takes as its `decode`."""
        return self._tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)

    def _render(self, messages: Sequence[Mapping[str, str]]) -> str:
        from jinja2 import TemplateError  # noqa: PLC0415 - only devices that chat need it

        try:
            return self._tokenizer.apply_chat_template(
                [dict(message) for message in messages], add_generation_prompt=True, tokenize=False
            )
        except TemplateError as error:
            raise ValueError(f"The model's chat template refuses this conversation: {error}.") from error


_GENERIC = frozenset({"PreTrainedTokenizerFast", "TokenizersBackend"})
"""Classes of `tokenizer_config.json` that are what tokenizer.json says and nothing more."""


def _loader(folder: Path) -> Any:
    """Return what loads a folder's tokenizer: its class where that is the generic one, or transformers' choice.

    Both give the same tokenizer, but the choice among all classes brings torch with it where that is installed, which
    takes seconds and hundreds of megabytes.
    """
    try:
        named = json.loads((folder / "tokenizer_config.json").read_bytes()).get("tokenizer_class")
    except (OSError, ValueError, AttributeError):
        named = None  # transformers says better what is wrong
    with _quiet_import():  # takes a second, so only when needed
        if named in _GENERIC:
            from transformers import PreTrainedTokenizerFast  # noqa: PLC0415

            return PreTrainedTokenizerFast
        from transformers import AutoTokenizer  # noqa: PLC0415

        return AutoTokenizer


@contextmanager
def _quiet_import() -> Iterator[None]:
    """Keep transformers from announcing, when first imported, that torch is missing: a device has none."""

    def without_advice(record: logging.LogRecord) -> bool:
        return "PyTorch was not found" not in record.getMessage()

    logger = logging.getLogger("transformers")
    logger.addFilter(without_advice)
    try:
        yield
    finally:
        logger.removeFilter(without_advice)
