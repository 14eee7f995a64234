"""A drafter that runs any Hugging Face causal language model with torch, on the CPU or a GPU.

For devices that have torch anyway (a Jetson, a PC). Only this module needs it; nothing imports it until such a drafter
is asked for.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import torch
from transformers import AutoModelForCausalLM, DynamicCache

from edge_agent.drafters.drafter import DrafterError
from edge_agent.drafters.logits import propose_from
from edge_agent.drafters.sequence import check_sequence, common_prefix
from edge_agent.drafters.weights import digits_of
from schemas.messages import GREEDY

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from edge_agent.drafters.drafter import Proposal
    from schemas.messages import Sampling

DType: TypeAlias = Literal["auto", "float32", "bfloat16", "float16"]
"""`auto` is the checkpoint's own."""

_CHUNK = 256
"""Tokens of a prompt computed in one run: bounds the memory of its attention."""
_WEIGHTS = (".safetensors", ".bin")
_UNSTATED_CONTEXT = 2048
"""Taken where a config states no length (bloom, mpt: they were trained on so many tokens)."""
_ROUNDING = {torch.float32: 1e-3, torch.bfloat16: 0.05, torch.float16: 0.02}
"""Share of the largest logit by which rounding may move a logit; a state that was not rolled back moves more."""


class TransformersDrafter:
    """Drafts with a causal language model in a Hugging Face folder (config.json, safetensors).

    Args:
        folder: the model's folder; nothing is ever downloaded.
        device: a torch device, or `auto`: CUDA where there is one, else the CPU.
        dtype: what to compute in.
        threads: CPU threads for torch, in the whole process; None leaves torch's own choice.
        vocab_limit: token ids at and above it are never proposed.

    Raises:
        DrafterError: the model is missing, damaged, or of a kind whose state cannot be rolled back.
    """

    def __init__(
        self,
        folder: Path,
        *,
        device: str = "auto",
        dtype: DType = "auto",
        threads: int | None = None,
        vocab_limit: int | None = None,
    ) -> None:
        if threads is not None:
            torch.set_num_threads(threads)
        self._folder = folder
        self._model = _load(folder, device, dtype)
        self._weights = digits_of(path for path in folder.iterdir() if path.suffix in _WEIGHTS and path.is_file())
        config = self._model.config.get_text_config()
        self._context_length = int(getattr(config, "max_position_embeddings", None) or _UNSTATED_CONTEXT)
        self._known_ids = int(self._model.get_input_embeddings().num_embeddings)
        takes = inspect.signature(self._model.forward).parameters
        self._last_only = {"logits_to_keep": 1} if "logits_to_keep" in takes else {}
        self._forget()
        width = self._try_out()
        self._vocab_size = min(width, vocab_limit or width)

    @property
    def name(self) -> str:
        """The name of the model's folder."""
        return self._folder.name

    @property
    def vocab_size(self) -> int:
        """Proposals lie in [0, vocab_size)."""
        return self._vocab_size

    @property
    def context_length(self) -> int:
        """The longest sequence, in tokens, that `propose` takes."""
        return self._context_length

    def propose(self, tokens: Sequence[int], sampling: Sampling = GREEDY, position: int = 0) -> Proposal:
        """Return the next token after `tokens`, chosen from the model's logits as the target chooses from its own.

        Whatever `tokens` has in common with the previous call is not computed again.

        Raises:
            SequenceError: `tokens` is empty, too long or holds a negative id.
            DrafterError: `tokens` is not of this vocabulary, the model failed (out of memory) or computed NaN.
        """
        sequence = list(tokens)
        check_sequence(sequence, self.name, self._context_length)
        if max(sequence) >= self._known_ids:  # on a GPU this would break the process, not the call
            raise DrafterError(
                f"The drafter {self.name} knows {self._known_ids} token ids, but the sequence holds {max(sequence)}; "
                "use a drafter with the target's tokenizer."
            )
        try:
            logits = self._advance(sequence)
        except (RuntimeError, IndexError, ValueError) as error:
            self._forget()  # some layers may have taken the tokens in, and some not
            raise DrafterError(
                f"The drafter {self._folder} failed on {len(sequence)} tokens: {_first_line(error)} "
                "Check that its device has memory to spare."
            ) from error
        usable = logits[: self._vocab_size].float().cpu().numpy()
        return propose_from(usable, sampling, position, self._folder, source=self.name, weights=self._weights)

    def _advance(self, sequence: list[int]) -> torch.Tensor:
        """Bring the cache to `sequence` and return the logits after it, `[vocabulary]`."""
        # At least the last token is run again, since only that yields logits.
        known = min(common_prefix(self._computed, sequence), len(sequence) - 1)
        if surplus := len(self._computed) - known:
            self._cache.crop(-surplus)
            del self._computed[known:]
        with torch.inference_mode():
            for start in range(known, len(sequence), _CHUNK):
                chunk = sequence[start : start + _CHUNK]
                ids = torch.tensor([chunk], device=self._model.device)
                output = self._model(input_ids=ids, past_key_values=self._cache, use_cache=True, **self._last_only)
                self._computed += chunk
        logits: torch.Tensor = output.logits[0, -1]
        return logits

    def _forget(self) -> None:
        # Without the config, every layer keeps all its tokens; a layer that keeps a window could not be rolled back.
        self._cache = DynamicCache()
        self._computed: list[int] = []  # the tokens whose keys and values the cache holds

    def _try_out(self) -> int:
        """Return the width of the logits, and refuse a model whose state is not the cache's or survives a rollback."""
        try:
            fresh = self._advance([1, 2])
            self._forget()
            self._advance([1, 1, 0])
            held = self._cache.get_seq_length()
            rolled_back = self._advance([1, 2])
            self._forget()
        except Exception as error:
            raise DrafterError(
                f"The model in {self._folder} cannot draft: {_first_line(error)} Use a plain decoder."
            ) from error
        off = float((fresh - rolled_back).abs().max())  # NaN is told of when a token is asked for
        allowed = _ROUNDING.get(fresh.dtype, 0.05) * float(fresh.abs().max())
        if held != 3 or off > allowed or getattr(self._model, "_is_stateful", False):
            raise DrafterError(
                f"The model in {self._folder} keeps more than keys and values of past tokens, which cannot be taken "
                "back when a draft is rejected; use a plain decoder."
            )
        return len(fresh)


def _load(folder: Path, device: str, dtype: DType) -> Any:
    if not (folder / "config.json").is_file():
        raise DrafterError(f"{folder} has no config.json, so it is no Hugging Face model folder; check the path.")
    name = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    try:
        model, report = AutoModelForCausalLM.from_pretrained(
            str(folder), dtype=dtype, local_files_only=True, output_loading_info=True
        )
        model = model.to(torch.device(name)).eval().requires_grad_(requires_grad=False)
    except Exception as error:
        raise DrafterError(
            f"The model in {folder} cannot be loaded: {_first_line(error)} "
            "Copy its folder again, and check that its device has memory to spare."
        ) from error
    # transformers fills what a file lacks with random numbers and only logs it.
    lacking = sorted({str(key) for kind in ("missing_keys", "mismatched_keys") for key in report[kind]})
    if lacking:
        raise DrafterError(
            f"The weights in {folder} lack {len(lacking)} tensors or hold them in another shape ({lacking[0]}, …); "
            "copy its folder again."
        )
    return model


def _first_line(error: Exception) -> str:
    return (str(error).strip().partition("\n")[0].rstrip(". ")[:300] or type(error).__name__) + "."
