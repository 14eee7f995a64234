"""Which targets are refused, and why, in words for the operator."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from verifier.engine.errors import EngineError

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedConfig

# The kinds of attention layer whose state is keys and values, one row per token, and so can be rolled back.
_ATTENTION_LAYERS = frozenset({"full_attention", "sliding_attention", "chunked_attention"})

# Options of generation_config.json that change which token is chosen and are not implemented, with the values that
# leave the choice alone (None always does). Temperature, top_k, top_p, do_sample and max_length are the request's.
_NEUTRAL: dict[str, tuple[object, ...]] = {
    "bad_words_ids": ([],),
    "begin_suppress_tokens": ([],),
    "constraints": ([],),
    "diversity_penalty": (0.0,),
    "dola_layers": (),
    "encoder_no_repeat_ngram_size": (0,),
    "encoder_repetition_penalty": (1.0,),
    "epsilon_cutoff": (0.0,),
    "eta_cutoff": (0.0,),
    "exponential_decay_length_penalty": (),
    "force_words_ids": ([],),
    "forced_bos_token_id": (),
    "forced_eos_token_id": ([],),
    "guidance_scale": (1.0,),
    "min_length": (0,),
    "min_new_tokens": (0,),
    "min_p": (0.0,),
    "no_repeat_ngram_size": (0,),
    "num_beam_groups": (1,),
    "num_beams": (1,),
    "penalty_alpha": (0.0,),
    "repetition_penalty": (1.0,),
    "sequence_bias": ({}, []),
    "stop_strings": ([],),
    "suppress_tokens": ([],),
    "token_healing": (False,),
    "top_h": (),
    "typical_p": (1.0,),
    "watermarking_config": (),
}


def refuse_architecture(config: PreTrainedConfig, model_class: type[Any] | None) -> None:
    """Refuse what cannot be rolled back to a prefix: recurrent state, and what is no causal language model.

    Args:
        config: the checkpoint's configuration.
        model_class: the class transformers would load it with, None if it knows none.

    Raises:
        EngineError: the target is refused.
    """
    kind = config.model_type
    if config.is_encoder_decoder:
        raise EngineError(
            f"The target is an encoder-decoder model ({kind}); SLED verifies causal language models only. "
            "Choose a decoder-only target."
        )
    # Encoders that can also be built as decoders say which they are; others do not have the setting.
    if getattr(config, "is_decoder", None) is False or getattr(config, "is_causal", None) is False:
        raise EngineError(
            f"The target ({kind}) is not configured as a decoder, so its predictions depend on what follows; choose "
            "a causal language model."
        )
    if model_class is None:
        raise EngineError(
            f"transformers knows no causal language model of type '{kind}'; choose another target or update "
            "transformers."
        )
    layers = set(getattr(config.get_text_config(), "layer_types", None) or ())
    other = sorted(str(layer) for layer in layers - _ATTENTION_LAYERS)
    if getattr(model_class, "_is_stateful", False) or other:
        what = f" (layers: {', '.join(other)})" if other else ""
        raise EngineError(
            f"The target's architecture ({kind}) carries state that cannot be rolled back when a draft is "
            f"rejected{what}, such as a recurrent or convolutional one; choose a target with attention layers only."
        )


def refuse_generation_options(options: GenerationConfig) -> None:
    """Refuse a generation_config that changes the output in a way the engine does not follow.

    Raises:
        EngineError: names the options.
    """
    found = [
        f"{name}={value!r}"
        for name, neutral in _NEUTRAL.items()
        if (value := getattr(options, name, None)) is not None and value not in neutral
    ]
    if found:
        raise EngineError(
            f"The target's generation_config.json sets {', '.join(found)}, which the verifier does not implement; "
            "its texts would differ from the target's own. Remove the option from the file, or choose another target."
        )
