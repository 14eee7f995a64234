"""What an ONNX graph of a student computes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnxruntime as ort

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray


def last_logits(folder: Path, ids: NDArray[np.int64], *, head_size: int) -> NDArray[np.float32]:
    """Return the logits that follow a sequence [1, length], read at once with nothing in the cache: [vocabulary]."""
    session = ort.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    past = {
        value.name: np.zeros((1, value.shape[1], 0, head_size), np.float32)
        for value in session.get_inputs()
        if value.name.startswith("past_key_values")
    }
    (logits,) = session.run(["logits"], {"input_ids": ids, "attention_mask": np.ones_like(ids), **past})
    return np.asarray(logits[0, -1])
