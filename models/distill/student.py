"""A student cut from a target: some of its layers, and the rows of its embeddings that the vocabulary keeps."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch

from models.error import ModelError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from transformers import PreTrainedConfig, PreTrainedModel

    from models.distill.vocabulary import Vocabulary

_DEPTH = 0.3
"""Share of the target's layers that a student has, unless told otherwise."""

_VOCABULARY_IDS = ("bos_token_id", "eos_token_id", "pad_token_id", "unk_token_id")


def spread_layers(total: int, count: int) -> list[int]:
    """Choose `count` of `total` layers: the first ones mostly, the last one always.

    Early layers build on each other and are of most use together; the last one turns what there is into a guess, so a
    student of the first layers and the last learns fastest. Half of the layers between are spread evenly.

    Raises:
        ModelError: the count lies outside 1 to `total`.
    """
    if not 1 <= count <= total:
        raise ModelError(f"A student of {count} layers cannot be cut from a target of {total}; choose 1 to {total}.")
    if count == 1:
        return [0]
    first = min(3, count - 1)
    inner = count - first - 1
    between = [round(first + (total - 1 - first) * (step + 1) / (inner + 1)) for step in range(inner)]
    return [*range(first), *between, total - 1]


def count_layers(target: Path) -> int:
    """Return how many layers a target has, by its configuration.

    Raises:
        ModelError: it cannot be read.
    """
    from transformers import AutoConfig  # noqa: PLC0415 - slow to import

    try:
        config = AutoConfig.from_pretrained(str(target), local_files_only=True).get_text_config()
        return int(config.num_hidden_layers)
    except Exception as error:
        raise ModelError(
            f"{target / 'config.json'} does not say how many layers the target has ({error}); "
            "download or convert it again."
        ) from error


def default_depth(total: int) -> int:
    """Return how many layers a student has unless told otherwise, of so many of the target's."""
    return max(1, round(_DEPTH * total))


def pick_layers(total: int, wanted: int | tuple[int, ...] | None) -> tuple[int, ...]:
    """Return the layers that were named, counted, or left to us.

    Args:
        total: how many the target has.
        wanted: which ones, ascending from 0; or how many; None takes about a third.

    Raises:
        ModelError: the target does not have them.
    """
    if not isinstance(wanted, tuple):
        return tuple(spread_layers(total, default_depth(total) if wanted is None else wanted))
    if not wanted or list(wanted) != sorted(set(wanted)) or not 0 <= wanted[0] <= wanted[-1] < total:
        raise ModelError(
            f"The layers {list(wanted)} are not some of the target's {total}; name each at most once, in ascending "
            "order, from 0."
        )
    return wanted


def cut_student(target: PreTrainedModel, layers: Sequence[int], vocabulary: Vocabulary) -> PreTrainedModel:
    """Return a float32 model of the target's `layers` (ascending, from 0) that reads and writes rows of `vocabulary`.

    Raises:
        ModelError: the layers are not the target's, or the vocabulary does not fit it.
    """
    config = target.config.get_text_config()
    layers = pick_layers(config.num_hidden_layers, tuple(layers))
    check_vocabulary(config, vocabulary)
    weights = _cut_weights(target, layers, torch.from_numpy(vocabulary.kept))
    student = empty_student(config, layers, vocabulary)
    report = student.load_state_dict(weights, strict=False)
    tied = {name for name in report.missing_keys if "lm_head" in name and config.tie_word_embeddings}
    if lacking := set(report.missing_keys) - tied | set(report.unexpected_keys):
        raise ModelError(
            f"A student cannot be cut from a {config.model_type} model: {min(lacking)} has no counterpart in it."
        )
    student.tie_weights()
    return student


def check_vocabulary(config: PreTrainedConfig, vocabulary: Vocabulary) -> None:
    """Compare a vocabulary with the target that a student is made of.

    Raises:
        ModelError: it is that of another target.
    """
    if len(vocabulary.inward) != config.vocab_size:
        raise ModelError(
            f"The student's vocabulary is made for {len(vocabulary.inward)} tokens, but the target has "
            f"{config.vocab_size}; make it from this target's own answers."
        )


def empty_student(config: PreTrainedConfig, layers: Sequence[int], vocabulary: Vocabulary) -> PreTrainedModel:
    """Return a float32 model of that shape, with weights that mean nothing yet."""
    from transformers import AutoModelForCausalLM  # noqa: PLC0415 - slow to import

    model = AutoModelForCausalLM.from_config(student_config(config, layers, vocabulary), dtype=torch.float32)
    return model.eval()


def student_config(config: PreTrainedConfig, layers: Sequence[int], vocabulary: Vocabulary) -> PreTrainedConfig:
    """Return the target's configuration with fewer layers and tokens."""
    cut = copy.deepcopy(config)
    cut.num_hidden_layers = len(layers)
    if kinds := getattr(config, "layer_types", None):
        cut.layer_types = [kinds[layer] for layer in layers]
    cut.vocab_size = len(vocabulary.kept)
    for name, rows in special_rows(config, vocabulary).items():
        setattr(cut, name, rows)
    return cut


def special_rows(config: PreTrainedConfig, vocabulary: Vocabulary) -> dict[str, int | list[int] | None]:
    """Return the student's rows of the ids that a target's configuration names, by their names in it."""
    found: dict[str, int | list[int] | None] = {}
    for name in _VOCABULARY_IDS:
        known = getattr(config, name, None)
        ids = known if isinstance(known, list) else [known]
        # Some configurations name ids that the model does not have.
        rows = [int(vocabulary.inward[i]) for i in ids if i is not None and 0 <= i < len(vocabulary.inward)]
        found[name] = rows if isinstance(known, list) else next(iter(rows), None)
    return found


def _cut_weights(target: PreTrainedModel, layers: Sequence[int], kept: torch.Tensor) -> dict[str, torch.Tensor]:
    """Rename the chosen layers to 0, 1, … and take the kept rows of the embeddings and the head."""
    prefix = layer_prefix(target)
    by_rows = _vocabulary_weights(target)
    weights: dict[str, torch.Tensor] = {}
    for name, tensor in target.state_dict().items():
        if name.startswith(prefix):
            old, _, rest = name.removeprefix(prefix).partition(".")
            if int(old) in layers:
                weights[f"{prefix}{layers.index(int(old))}.{rest}"] = tensor.float()
        else:
            weights[name] = (tensor[kept] if name in by_rows else tensor).float()
    return weights


def layer_prefix(model: PreTrainedModel) -> str:
    """Return what the names of all weights of the decoder layers begin with, such as `model.layers.`."""
    count = model.config.get_text_config().num_hidden_layers
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.ModuleList) and len(module) == count:
            return f"{name}."
    raise ModelError(f"The layers of a {model.config.model_type} model were not found; it cannot be cut. Try --width.")


def _vocabulary_weights(model: PreTrainedModel) -> set[str]:
    """Return the names of the weights with one row per token."""
    modules: list[Any] = [model.get_input_embeddings(), model.get_output_embeddings()]
    rows = {id(value) for module in modules for value in module.parameters()}
    return {name for name, value in model.named_parameters(remove_duplicate=False) if id(value) in rows}
