"""The target alone: what a text must be, by the library's own plain code, with nothing of SLED between."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    import numpy as np
    import numpy.typing as npt

    from edge_agent.tokenizer import ChatTokenizer


class Reference:
    """Runs a target unbatched.

    Args:
        folder: the target's Hugging Face folder.
        dtype: `float32`, `bfloat16`, or `auto` for the checkpoint's own.
    """

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

    @property
    def end_tokens(self) -> frozenset[int]:
        """The ids with which the target ends a text, by its generation_config."""
        end = self._model.generation_config.eos_token_id
        return frozenset(end) if isinstance(end, list) else frozenset(() if end is None else (int(end),))

    def write(
        self, messages: Sequence[Mapping[str, str]], max_tokens: int, each: Callable[[], object] | None = None
    ) -> tuple[tuple[int, ...], str]:
        """Return the target's greedy answer as token ids and as text, special tokens left out.

        Args:
            messages: the conversation.
            max_tokens: length of the answer at most.
            each: called when a token has been chosen.
        """
        import torch  # noqa: PLC0415

        prompt = self.tokenizer.encode_chat(messages)
        ids = torch.tensor([prompt])
        with torch.inference_mode():
            out = self._model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=max_tokens,
                do_sample=False,
                streamer=None if each is None else _Ticks(each),
            )
        tokens = [int(token) for token in out[0, len(prompt) :]]
        return tuple(tokens), self.tokenizer.decode(tokens)

    def logits(self, prompt: Sequence[int], output: Sequence[int]) -> npt.NDArray[np.float32]:
        """Return the logits [T, V] from which each of the T tokens of `output` was to be chosen, by teacher forcing."""
        import torch  # noqa: PLC0415

        ids = torch.tensor([[*prompt, *output]])
        with torch.inference_mode():
            logits = self._model(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1]
        array: npt.NDArray[np.float32] = logits.float().numpy()
        return array


class _Ticks:
    """A streamer for `generate` that only says that there is a token."""

    def __init__(self, each: Callable[[], object]) -> None:
        self._each = each
        self._begun = False

    def put(self, _: object) -> None:
        """Take a token; the prompt comes first."""
        if self._begun:
            self._each()
        self._begun = True

    def end(self) -> None:
        """Nothing is held back."""
