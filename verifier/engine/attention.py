"""The attention function registered with transformers for packed steps.

It is called by every attention layer with post-RoPE queries, keys and values of the packed sequence, writes keys and
values to the store and attends each session to its own rows. The plan of the step arrives as a keyword argument of
the model's forward, which transformers hands down to the layers; nothing is kept between calls.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

if TYPE_CHECKING:
    from verifier.engine.plan import Run, StepPlan

NAME = "sled_packed"
"""The name under which transformers knows the function; it has no mask function, so models hand down mask None."""

PLAN_ARGUMENT = "sled_plan"
"""The forward argument that carries the step's plan."""


class NotPackableError(Exception):
    """The model's attention cannot be run packed; the message says why."""


class LayerCall:
    """What a layer asks for besides its queries, keys and values.

    Attributes:
        index: the layer's `layer_idx`.
        scaling: factor on the scores; None for 1/√D.
        window: how many keys a query sees, itself included; None for all before it.
        softcap: scores become softcap · tanh(score / softcap); None for no cap.
        sinks: [H] a logit per head that joins each softmax and takes no value; None for none.
    """

    __slots__ = ("index", "scaling", "sinks", "softcap", "window")

    def __init__(
        self,
        index: int,
        *,
        scaling: float | None,
        window: int | None,
        softcap: float | None,
        sinks: torch.Tensor | None,
    ) -> None:
        self.index = index
        self.scaling = scaling
        self.window = window
        self.softcap = softcap
        self.sinks = sinks


class Attends(Protocol):
    """What may travel as the plan: something that answers a layer."""

    def attend(self, call: LayerCall, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        """Return [1, ΣT, H, Dv] for query [1, H, ΣT, D], key [1, Hkv, ΣT, D] and value [1, Hkv, ΣT, Dv]."""
        ...


def packed_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    sled_plan: Attends | None = None,
    **_: object,
) -> tuple[torch.Tensor, None]:
    """Attend a packed sequence; the signature is that of transformers' attention functions.

    Raises:
        NotPackableError: the layer did not hand down the plan, or made a mask of its own.
    """
    if sled_plan is None:
        raise NotPackableError("its layers do not hand forward arguments down to their attention")
    if attention_mask is not None:
        raise NotPackableError("its layers make attention masks of their own")
    index = module.layer_idx
    if not isinstance(index, int):
        raise NotPackableError("its attention layers are not numbered")
    call = LayerCall(index, scaling=scaling, window=sliding_window, softcap=softcap, sinks=s_aux)
    return sled_plan.attend(call, query, key, value), None


def register() -> None:
    """Make the function known to transformers; doing so again changes nothing."""
    AttentionInterface.register(NAME, packed_attention)


class PackedAttention:
    """Answers the layers of one step from its plan."""

    __slots__ = ("plan",)

    def __init__(self, plan: StepPlan) -> None:
        self.plan = plan

    def attend(self, call: LayerCall, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        """Write the layer's keys and values, then attend run by run (shapes as in `Attends`)."""
        plan = self.plan
        heads, kv_heads, total, depth = query.shape[1], key.shape[1], query.shape[2], query.shape[3]
        groups = heads // kv_heads
        keys, values = plan.store.layer(call.index)
        # Flat rows copy in one piece each, which halves the time.
        keys.flatten(1).index_copy_(0, plan.rows, key[0].transpose(0, 1).flatten(1))
        values.flatten(1).index_copy_(0, plan.rows, value[0].transpose(0, 1).flatten(1))
        fold = plan.fold(call.window, kv_heads, groups)
        # Head h reads KV head h // groups. Models compute heads behind tokens, so this is mostly a view.
        rows = query[0].transpose(0, 1).reshape(total * heads, depth)
        queries = rows.index_select(0, fold.gather).view(kv_heads, total * groups, depth)
        attend = _attend_plain if call.softcap is None and call.sinks is None else _attend_capped
        pieces = [
            attend(
                call,
                run,
                piece.view(kv_heads, run.batch, groups * run.count, depth).transpose(0, 1),
                _view(keys, run),
                _view(values, run),
                groups,
            )
            for run, piece in zip(fold.runs, torch.split(queries, fold.sizes, 1), strict=True)
        ]
        out = torch.cat(pieces, 1) if len(pieces) > 1 else pieces[0]
        return out.reshape(total * heads, -1).index_select(0, fold.scatter).view(1, total, heads, -1)


def _view(store: torch.Tensor, run: Run) -> torch.Tensor:
    """Show the run's rows of a store [rows, kv_heads, D] as [batch, kv_heads, keys, D], without copying."""
    _, heads, depth = store.shape
    row = heads * depth
    return store.as_strided((run.batch, heads, run.keys, depth), (run.stride * row, depth, row, 1), run.start * row)


def _attend_plain(
    call: LayerCall, run: Run, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, groups: int
) -> torch.Tensor:
    """Attend through torch's fused kernel.

    Args:
        call: what the layer asks for.
        run: the run.
        query: [batch, kv_heads, G·T, D], rows ordered (group, token).
        key: [batch, kv_heads, L, D].
        value: [batch, kv_heads, L, Dv].
        groups: G.

    Returns:
        [kv_heads, batch·G·T, Dv].
    """
    if run.folded or groups == 1:
        out = scaled_dot_product_attention(
            query, key, value, attn_mask=run.mask, is_causal=run.causal, scale=call.scaling
        )
        # The kernel gives its output the strides of the query, so this is mostly a view.
        return out.transpose(0, 1).reshape(value.shape[1], -1, value.shape[3])
    out = scaled_dot_product_attention(
        query.reshape(1, -1, run.count, query.shape[3]),
        key,
        value,
        attn_mask=run.mask,
        is_causal=run.causal,
        scale=call.scaling,
        enable_gqa=True,
    )
    return out.reshape(value.shape[1], -1, value.shape[3])


def _attend_capped(
    call: LayerCall, run: Run, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, groups: int
) -> torch.Tensor:
    """Attend with a softcap, sinks or both, which the fused kernel does not know (shapes as `_attend_plain`)."""
    scaling = query.shape[3] ** -0.5 if call.scaling is None else call.scaling
    scores = torch.matmul(query, key.transpose(2, 3)).float() * scaling
    if call.softcap is not None:
        scores = call.softcap * torch.tanh(scores / call.softcap)
    mask = run.mask
    if run.causal:
        hidden = torch.full((run.count, run.count), -torch.inf, device=scores.device)
        mask = hidden.triu(1)
    if mask is not None:
        if not run.folded:
            mask = mask.repeat(*[1] * (mask.dim() - 2), groups, 1)
        scores = scores + mask.float()
    if call.sinks is None:
        weights = torch.softmax(scores, -1)
    else:
        # Sinks come by head [H] = [kv_heads, groups]; every token's row of the head gets its head's.
        sink = call.sinks.float().view(-1, groups).repeat_interleave(run.count, 1)
        sink = sink[None, :, :, None].expand(run.batch, -1, -1, -1)
        weights = torch.softmax(torch.cat([scores, sink], -1), -1)[..., :-1]
    out = torch.matmul(weights.to(value.dtype), value)
    return out.transpose(0, 1).reshape(value.shape[1], -1, value.shape[3])
