"""Finding out, at load time, what a model's layers store and whether it really computes alike when packed.

A class may claim support for attention functions and still lose something on the way, silently. So a few tokens of
two sessions are run packed, in two steps, and compared with the same tokens run alone through the eager code.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from verifier.engine.attention import NAME, PLAN_ARGUMENT, LayerCall, NotPackableError, PackedAttention, register
from verifier.engine.checkpoint import rope_types
from verifier.engine.errors import EngineError
from verifier.engine.kv import KVStore, LayerShape
from verifier.engine.plan import Span, StepPlan

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from verifier.engine.kv import Layout

_LENGTHS = ((17, 23), (9, 14))
"""Tokens of each of two sessions after the first and the second step."""

_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.3}
"""Root mean square difference of the logits, relative to their spread. A model run wrongly differs by about 1."""


class _Recorder:
    """Answers the layers of one forward with zeros and notes what they would store."""

    def __init__(self) -> None:
        self.layout: dict[int, LayerShape] = {}
        self.windows: dict[int, int | None] = {}

    def attend(self, call: LayerCall, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        if call.index in self.layout:
            raise NotPackableError(f"its layer {call.index} attends more than once")
        if key.shape[2] != query.shape[2]:
            raise NotPackableError("its keys are not those of the tokens fed")
        self.layout[call.index] = LayerShape(key.shape[1], key.shape[3], value.shape[3], key.dtype)
        self.windows[call.index] = call.window
        return query.new_zeros(1, query.shape[2], query.shape[1], value.shape[3])


def probe_packed(model: PreTrainedModel) -> Layout:
    """Switch the model to packed attention and return what its layers store.

    Raises:
        NotPackableError: the model must run one session at a time; the message completes "because …". Its attention
            is switched back to the eager code.
        EngineError: the model computes NaN.
    """
    if not getattr(model, "_supports_attention_backend", False):
        raise NotPackableError("its class does not support attention functions from outside")
    kinds = sorted(kind for kind in rope_types(model) if "dynamic" in kind or kind == "longrope")
    if kinds:
        raise NotPackableError(f"its rotary embedding ({', '.join(kinds)}) depends on the longest session of a step")
    types = getattr(model.config.get_text_config(), "layer_types", None) or []
    if "chunked_attention" in types:
        raise NotPackableError("it attends in chunks, which it asks for by a mask only")
    register()
    try:
        model.set_attn_implementation("eager")
        alone = [_forward(model, _tokens(model, ends[-1]), None) for ends in _LENGTHS]
        model.set_attn_implementation(NAME)
        layout = _record(model, types)
        _compare(model, layout, alone)
    except (NotPackableError, TypeError) as error:
        model.set_attn_implementation("eager")
        if isinstance(error, TypeError):
            raise NotPackableError(f"its forward takes other arguments ({error})") from error
        raise
    return layout


def _record(model: PreTrainedModel, types: list[str]) -> Layout:
    recorder = _Recorder()
    tokens = _tokens(model, 3)
    _forward(model, tokens, torch.arange(3), **{PLAN_ARGUMENT: recorder})
    if not recorder.layout:
        raise NotPackableError("none of its layers uses the attention function")
    for index, kind in enumerate(types):
        if kind == "sliding_attention" and recorder.windows.get(index) is None:
            raise NotPackableError(f"its layer {index} asks for a sliding window by a mask only")
    return recorder.layout


def _compare(model: PreTrainedModel, layout: Layout, alone: list[torch.Tensor]) -> None:
    block = 32
    budget = len(_LENGTHS) * block * sum(shape.row_bytes for shape in layout.values())
    store = KVStore(layout, budget_bytes=budget, device=model.device, block_tokens=block)
    past = [0] * len(_LENGTHS)
    worst = 0.0
    for step in range(len(_LENGTHS[0])):
        spans = [Span(i * block, past[i], ends[step] - past[i]) for i, ends in enumerate(_LENGTHS)]
        plan = StepPlan(store, spans, model.dtype, model.device)
        tokens = torch.cat([_tokens(model, ends[step])[past[i] :] for i, ends in _packed(plan)])
        logits = _forward(model, tokens, plan.positions, **{PLAN_ARGUMENT: PackedAttention(plan)})
        at = 0
        for i, ends in _packed(plan):
            count = spans[i].count
            worst = max(worst, _difference(logits[at : at + count], alone[i][past[i] : ends[step]]))
            past[i] = ends[step]
            at += count
    if not worst <= _TOLERANCE.get(model.dtype, 0.3):
        raise NotPackableError(f"its logits come out differently when packed (by {worst:.2g} of their spread)")


def _packed(plan: StepPlan) -> list[tuple[int, tuple[int, int]]]:
    return [(index, _LENGTHS[index]) for index in plan.order]


def _difference(got: torch.Tensor, expected: torch.Tensor) -> float:
    if not bool(expected.isfinite().all()):
        raise EngineError("The target computes NaN or infinite logits; its weights are damaged. Get them again.")
    return float((got - expected).square().mean().sqrt() / expected.std().clamp(min=1e-6))


def _tokens(model: PreTrainedModel, count: int) -> torch.Tensor:
    """Return `count` ids spread over the vocabulary, the same for every call."""
    return (torch.arange(1, count + 1) * 7919) % int(model.config.get_text_config().vocab_size)


@torch.inference_mode()
def _forward(
    model: PreTrainedModel, tokens: torch.Tensor, positions: torch.Tensor | None, **arguments: object
) -> torch.Tensor:
    """Return float32 logits [T, V] of `tokens` [T]."""
    if positions is not None:
        arguments["position_ids"] = positions[None].to(model.device)
    out = model(input_ids=tokens[None].to(model.device), use_cache=False, **arguments)
    logits: torch.Tensor = out.logits[0].float()
    return logits
