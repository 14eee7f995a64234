"""The target alone: what a text must be, by the library's own plain `generate`."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from edge_agent.tokenizer import ChatTokenizer


class Reference:
    """Runs a target unbatched and greedily, with nothing of SLED between."""

    def __init__(self, folder: Path, dtype: str) -> None:
        import torch  # noqa: PLC0415 -- slow, and not on a device
        from transformers import AutoModelForCausalLM  # noqa: PLC0415
        from transformers.utils import logging  # noqa: PLC0415

        from edge_agent.tokenizer import ChatTokenizer  # noqa: PLC0415

        logging.disable_progress_bar()
        self.tokenizer: ChatTokenizer = ChatTokenizer.load(folder)
        self._model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype if dtype == "auto" else getattr(torch, dtype), local_files_only=True
        )
        self._model.eval()

    def write(self, messages: Sequence[Mapping[str, str]], max_tokens: int) -> tuple[tuple[int, ...], str]:
        """Return the target's greedy answer as token ids and as text, special tokens left out."""
        import torch  # noqa: PLC0415

        prompt = self.tokenizer.encode_chat(messages)
        ids = torch.tensor([prompt])
        with torch.inference_mode():
            out = self._model.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=max_tokens, do_sample=False
            )
        tokens = [int(token) for token in out[0, len(prompt) :]]
        return tuple(tokens), self.tokenizer.decode(tokens)
