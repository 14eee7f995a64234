"""A model with another tokenizer than the one it was made from, for want of a published one that is at hand.

The model keeps its weights. Its tokenizer is that of the model it is made from with only its first merges, and with
other ids, so it cuts the same text into other and more tokens; the rows of its embeddings move with the ids. It still
writes sensible text, somewhat worse, since it was not trained on these cuts. Run as
`python -m tests.models.other_tokenizer MODEL OUT` to make a drafter of it, exported to ONNX, for
`sled bench lossless --drafter cross:OUT`.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

MERGES = 10_000


def save_with_other_tokenizer(model: Path, out: Path, *, merges: int = MERGES, seed: int = 0) -> Path:
    """Write a Hugging Face folder with the model's weights and another tokenizer; return the folder.

    Args:
        model: a folder with a byte-level BPE tokenizer.
        out: the folder to write.
        merges: how many of its merges the tokenizer keeps, the most frequent ones.
        seed: of the new ids.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

    tokenizer = AutoTokenizer.from_pretrained(str(model))
    config = json.loads(tokenizer.backend_tokenizer.to_str())
    old_ids = _cut(config, merges, seed)
    new_ids = {int(old): new for new, old in enumerate(old_ids)}
    whole = AutoModelForCausalLM.from_pretrained(str(model), dtype="float32")
    whole.resize_token_embeddings(len(old_ids))  # the sizes; the rows come now
    original = AutoModelForCausalLM.from_pretrained(str(model), dtype="float32")
    for ends in ("get_input_embeddings", "get_output_embeddings"):
        getattr(whole, ends)().weight.data.copy_(getattr(original, ends)().weight.data[old_ids])
    for settings in (whole.config, whole.generation_config or GenerationConfig()):
        for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
            setattr(settings, name, new_ids.get(getattr(settings, name)))
    whole.save_pretrained(str(out))
    tokenizer.save_pretrained(str(out))
    (out / "tokenizer.json").write_text(json.dumps(config, ensure_ascii=False), encoding="utf-8")
    return out


def _cut(config: dict[str, Any], merges: int, seed: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Cut a written-out tokenizer's merges and give its tokens new ids; return the old id of each new one."""
    model = config["model"]
    vocab: dict[str, int] = model["vocab"]
    left = model["merges"][:merges]
    made = {"".join(pair) for pair in model["merges"]} - {"".join(pair) for pair in left}
    added = {entry["content"] for entry in config["added_tokens"]}
    kept = sorted(token for written, token in vocab.items() if written in added or written not in made)
    old_ids = np.random.default_rng(seed).permutation(
        sorted({*kept, *(entry["id"] for entry in config["added_tokens"])})
    )
    new_ids = {int(old): new for new, old in enumerate(old_ids)}
    model["vocab"] = {written: new_ids[token] for written, token in vocab.items() if token in new_ids}
    model["merges"] = left
    for entry in config["added_tokens"]:
        entry["id"] = new_ids[entry["id"]]
    config["added_tokens"].sort(key=lambda entry: entry["id"])
    return old_ids


def main(arguments: Sequence[str] | None = None) -> None:
    """Make a drafter from a model's folder."""
    from models.export import export_drafter

    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("model", type=Path, help="folder of a model with a byte-level BPE tokenizer")
    parser.add_argument("out", type=Path, help="folder of the drafter to make")
    parser.add_argument("--merges", type=int, default=MERGES, help=f"merges to keep (default {MERGES})")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="sled-") as scratch:
        folder = save_with_other_tokenizer(options.model, Path(scratch) / "other", merges=options.merges)
        print(export_drafter(folder, options.out))  # noqa: T201


if __name__ == "__main__":
    main()
