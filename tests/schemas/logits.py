"""Logits and samplings of all sorts, and the distribution that a sampling should have."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from hypothesis import strategies as st

from schemas.messages import Sampling

if TYPE_CHECKING:
    import numpy.typing as npt

_WIDTHS = (1, 2, 3, 10, 63, 64, 65, 128, 700, 5000)


@st.composite
def logits_rows(draw: st.DrawFn, rows: int = 4) -> npt.NDArray[np.float32]:
    """Rows of logits [rows, V]: normal, huge, tied, equal or partly -inf; each has a finite highest."""
    chance = np.random.default_rng(draw(st.integers(0, 2**32)))
    shape = rows, draw(st.sampled_from(_WIDTHS))
    kind = draw(st.sampled_from(["normal", "huge", "tied", "equal", "masked", "subnormal"]))
    values = chance.normal(0, 5, shape)
    if kind == "huge":
        values = chance.normal(0, 1e37, shape)
    elif kind == "tied":
        values = chance.integers(-3, 3, shape).astype(np.float64)
    elif kind == "equal":
        values = np.full(shape, draw(st.sampled_from([0.0, -7.25, 1e30])))
    elif kind == "masked":
        values[chance.random(shape) < 0.9] = -np.inf
        values[:, -1] = np.where(np.isfinite(values).any(1), values[:, -1], -1e30)
    elif kind == "subnormal":
        values *= 1e-41
    return values.astype(np.float32)


def samplings() -> st.SearchStrategy[Sampling]:
    """All parameters, extreme ones included."""
    return st.builds(
        Sampling,
        temperature=st.sampled_from([0.0, 1e-310, 1e-3, 0.3, 0.8, 1.0, 2.0, 100.0]),
        top_k=st.sampled_from([0, 1, 2, 7, 50, 64, 4999, 2**31 - 1]),
        top_p=st.sampled_from([1.0, 0.99999, 0.95, 0.5, 0.1, 1e-9]),
        seed=st.integers(0, 2**63 - 1),
    )


def target(logits: npt.NDArray[np.float32], sampling: Sampling) -> npt.NDArray[np.float64]:
    """Return the probabilities that the sampling should have, token by token and without a thought of speed."""
    chances = [float(np.exp(logit / sampling.temperature)) for logit in logits.astype(np.float64)]
    order = sorted(range(len(chances)), key=lambda token: (-chances[token], token))
    order = order[: sampling.top_k or None]
    total, mass, kept = sum(chances[token] for token in order), 0.0, []
    for token in order:
        kept.append(token)
        mass += chances[token]
        if sampling.top_p < 1 and mass >= sampling.top_p * total:
            break
    result = np.zeros(len(chances))
    result[kept] = [chances[token] / mass for token in kept]
    return result
