"""A student smaller than any cut: a Llama of a width of its own, whose embeddings alone come from the target."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from models.distill.student import check_vocabulary, default_depth, special_rows
from models.error import ModelError
from verifier.engine.checkpoint import limits

if TYPE_CHECKING:
    from transformers import LlamaConfig, PreTrainedModel

    from models.distill.vocabulary import Vocabulary

_STEP = 16
"""A width is a multiple of it, so that heads of at least so many numbers divide it."""

_HEADS = (64, 32, 16)
"""Sizes of a head, the best one first."""

_INNER_STEP = 32
_ROPE_BASE = 10_000.0
_ROPE_CONTEXT = 4096
"""The longest context that the usual base of the rotations does for; it grows with longer ones."""


def check_width(width: int) -> None:
    """Refuse a width that no student can have.

    Raises:
        ModelError: it is no positive multiple of 16.
    """
    if width < _STEP or width % _STEP:
        raise ModelError(f"A student cannot be {width} numbers wide; give --width a multiple of {_STEP}, as 256.")


def number_layers(total: int, wanted: int | tuple[int, ...] | None) -> tuple[int, ...]:
    """Return the numbers of the student's own layers.

    Args:
        total: how many layers the target has.
        wanted: how many the student shall have; None takes about a third of the target's.

    Raises:
        ModelError: layers of the target were named, or there are none.
    """
    if isinstance(wanted, tuple):
        raise ModelError(
            f"A student with a width of its own has none of the target's layers, such as {list(wanted)}; say how many "
            "--layers it shall have, or leave --width out."
        )
    count = default_depth(total) if wanted is None else wanted
    if count < 1:
        raise ModelError(f"A student cannot have {count} layers; choose 1 or more.")
    return tuple(range(count))


def small_student(target: PreTrainedModel, layers: int, width: int, vocabulary: Vocabulary) -> PreTrainedModel:
    """Return a float32 Llama that reads and writes rows of `vocabulary`, the same one for the same seed of torch.

    Args:
        target: whose tokens it guesses; any causal language model.
        layers: how many it has.
        width: of its hidden states, see `check_width`.
        vocabulary: its tokens.

    Raises:
        ModelError: the width cannot be, or the vocabulary does not fit the target.
    """
    from transformers import LlamaForCausalLM  # noqa: PLC0415 - slow to import

    check_vocabulary(target.config.get_text_config(), vocabulary)
    config = small_config(target, layers, width, vocabulary)
    student = LlamaForCausalLM(config).float().eval()
    kept = torch.from_numpy(vocabulary.kept)
    known = target.get_input_embeddings().weight.detach().cpu()[kept].float()
    with torch.no_grad():
        student.get_input_embeddings().weight.copy_(narrowed(known, width, size=config.initializer_range))
    return student


def small_config(target: PreTrainedModel, layers: int, width: int, vocabulary: Vocabulary) -> LlamaConfig:
    """Return the configuration of `small_student`: its head is its embedding, its context that of the target.

    Raises:
        ModelError: the width cannot be.
    """
    from transformers import LlamaConfig  # noqa: PLC0415 - slow to import

    check_width(width)
    context = limits(target).context_length
    head = next(size for size in _HEADS if width % size == 0)
    return LlamaConfig(
        vocab_size=len(vocabulary.kept),
        hidden_size=width,
        intermediate_size=-(-8 * width // (3 * _INNER_STEP)) * _INNER_STEP,
        num_hidden_layers=layers,
        num_attention_heads=width // head,
        num_key_value_heads=width // head,
        head_dim=head,
        max_position_embeddings=context,
        rope_parameters={"rope_type": "default", "rope_theta": _ROPE_BASE * max(1.0, context / _ROPE_CONTEXT)},
        tie_word_embeddings=True,
        **special_rows(target.config.get_text_config(), vocabulary),
    )


def narrowed(table: torch.Tensor, width: int, *, size: float) -> torch.Tensor:
    """Return embeddings [K, width] that point alike where those of `table` [K, d] do.

    They are its projections on its first principal components, the strongest first; columns that it has no component
    for are random.

    Args:
        table: float32 [K, d].
        width: wanted.
        size: standard deviation of the numbers returned.
    """
    centred = table - table.mean(dim=0)
    _, components = torch.linalg.eigh(centred.T @ centred)  # ascending
    projected = centred @ components.flip(1)[:, :width]
    projected *= size / projected.square().mean().sqrt().clamp(min=1e-12)
    return torch.cat([projected, size * torch.randn(len(table), width - projected.shape[1])], dim=1)
