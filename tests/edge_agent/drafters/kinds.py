"""Every kind of drafter, small and real, each with what it should propose, computed plainly from scratch."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from edge_agent.drafters.chain import Candidate, DrafterChain
from edge_agent.drafters.cross_vocabulary import CrossVocabulary
from edge_agent.drafters.lookup import PromptLookup
from edge_agent.drafters.lookup_first import LookupFirst
from edge_agent.drafters.onnx import OnnxDrafter
from edge_agent.drafters.vocabulary import Vocabulary
from schemas.choice import choose
from schemas.messages import GREEDY
from tests.edge_agent.drafters.small_tokenizers import letters
from tests.edge_agent.drafters.tiny_decoder import LONGEST, PADDED, TinyDecoder
from tests.models.tiny import LONGEST as LLAMA_LONGEST
from tests.models.tiny import VOCAB as LLAMA_VOCAB
from tests.models.tiny import save_llama

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from edge_agent.drafters.drafter import Drafter
    from schemas.choice import Choice
    from schemas.messages import Sampling

    Logits = Callable[[list[int]], NDArray[np.floating]]
    Plain = Callable[[list[int]], int | None]

DECODER = TinyDecoder.random()


@dataclass(frozen=True)
class Case:
    """A drafter and its measure.

    Attributes:
        drafter: used by all tests one after the other, as a device uses it for all requests.
        vocab_size: what it should say of itself.
        context_length: likewise; None for no limit.
        logits: of its model after a sequence, computed without a cache; None if it has no model.
        lookup: what a plain search of the sequence finds; None if it does not look anything up.
        greedy: whether it proposes its most likely token whatever the sampling.
    """

    drafter: Drafter
    vocab_size: int
    context_length: int | None
    logits: Logits | None = None
    lookup: Plain | None = None
    greedy: bool = False

    def looked_up(self, tokens: list[int]) -> int | None:
        """The token that a search finds."""
        return self.lookup(tokens) if self.lookup else None

    def chosen(self, tokens: list[int], sampling: Sampling, position: int) -> Choice | None:
        """What the model should choose where the search finds nothing."""
        if self.logits is None:
            return None
        return choose(self.logits(tokens)[: self.vocab_size], GREEDY if self.greedy else sampling, position)


def plain_lookup(tokens: list[int], longest: int = 4, shortest: int = 2) -> int | None:
    """Search for the longest suffix that occurred before, from the back."""
    for length in range(longest, shortest - 1, -1):
        suffix = tokens[-length:]
        for start in range(len(tokens) - length - 1, -1, -1):
            if len(suffix) == length and tokens[start : start + length] == suffix:
                return tokens[start + length]
    return None


def onnx(folder: Path) -> Case:
    """A published export: copied cache, `position_ids`."""
    return Case(OnnxDrafter(DECODER.save(folder, "published")), PADDED, LONGEST, DECODER.logits)


def onnx_trimmed(folder: Path) -> Case:
    """A published export that is told to compute the last logits only."""
    return Case(OnnxDrafter(DECODER.save(folder, "trimmed")), PADDED, LONGEST, DECODER.logits)


def onnx_fused(folder: Path) -> Case:
    """A fused graph: cache in place, no `position_ids`."""
    return Case(OnnxDrafter(DECODER.save(folder, "fused")), PADDED, LONGEST, DECODER.logits)


def onnx_fused_copied(folder: Path) -> Case:
    """A fused graph whose cache is copied."""
    return Case(OnnxDrafter(DECODER.save(folder, "fused"), share=False), PADDED, LONGEST, DECODER.logits)


def transformers(folder: Path) -> Case:
    """A tiny llama."""
    from edge_agent.drafters.transformers import TransformersDrafter

    drafter = TransformersDrafter(save_llama(folder), device="cpu")
    return Case(drafter, LLAMA_VOCAB, LLAMA_LONGEST, torch_logits(folder))


def transformers_sliding(folder: Path) -> Case:
    """A tiny mistral that sees the last eight tokens only."""
    from edge_agent.drafters.transformers import TransformersDrafter

    drafter = TransformersDrafter(save_mistral(folder), device="cpu", vocab_limit=30)
    return Case(drafter, 30, 256, torch_logits(folder))


def lookup(_folder: Path) -> Case:
    """Prompt lookup alone."""
    return Case(PromptLookup(), 1 << 30, None, None, plain_lookup)


def lookup_first(folder: Path) -> Case:
    """Prompt lookup whose every match is taken, in front of a model."""
    drafter = LookupFirst(PromptLookup(), onnx(folder).drafter, least_confidence=0.0)
    return Case(drafter, PADDED, LONGEST, DECODER.logits, plain_lookup)


def chain(folder: Path) -> Case:
    """A list whose first drafter is missing."""
    candidates = [
        Candidate("missing", lambda: OnnxDrafter(folder / "missing")),
        Candidate("works", lambda: onnx(folder).drafter),
    ]
    return Case(DrafterChain(candidates), PADDED, LONGEST, DECODER.logits)


def cross_vocabulary(folder: Path) -> Case:
    """A drafter that writes the same letters with other ids."""
    own_ids = list(reversed(range(PADDED)))
    own, target = (Vocabulary(letters(ids).to_str()) for ids in (own_ids, list(range(PADDED))))

    def logits(tokens: list[int]) -> NDArray[np.floating]:
        return DECODER.logits([own_ids[token] for token in tokens])[own_ids]

    drafter = CrossVocabulary(OnnxDrafter(DECODER.save(folder, "published")), own, target)
    return Case(drafter, PADDED, LONGEST, logits, greedy=True)


KINDS = {
    make.__name__: make
    for make in (
        onnx,
        onnx_trimmed,
        onnx_fused,
        onnx_fused_copied,
        transformers,
        transformers_sliding,
        lookup,
        lookup_first,
        chain,
        cross_vocabulary,
    )
}
"""Each writes what it needs into an empty folder."""


def save_mistral(folder: Path) -> Path:
    """Write a random model whose layers see a window."""
    import torch
    from transformers import MistralConfig, MistralForCausalLM

    torch.manual_seed(3)
    config = MistralConfig(
        vocab_size=PADDED,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        sliding_window=8,
        initializer_range=0.4,
    )
    MistralForCausalLM(config).save_pretrained(str(folder))
    return folder


def torch_logits(folder: Path) -> Logits:
    """Compute a whole sequence at once with transformers."""
    import torch
    from transformers import AutoModelForCausalLM

    @cache
    def model() -> Any:
        return AutoModelForCausalLM.from_pretrained(str(folder))

    def logits(tokens: list[int]) -> NDArray[np.floating]:
        with torch.no_grad():
            result: NDArray[np.floating] = model()(torch.tensor([tokens]), use_cache=False).logits[0, -1].numpy()
        return result

    return logits
