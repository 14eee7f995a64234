"""From a model's logits to its proposal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edge_agent.drafters.drafter import DrafterError, Proposal
from schemas.choice import choose

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from schemas.messages import Sampling


def propose_from(
    logits: NDArray[np.floating],
    sampling: Sampling,
    position: int,
    model: object,
    *,
    source: str = "",
    weights: str = "",
) -> Proposal:
    """Choose a token as the target would from these logits.

    Args:
        logits: `[vocabulary]`, of the usable token ids only.
        sampling: how the target chooses.
        position: output position of the token, from 0.
        model: its file or folder, for the message.
        source: the drafter's name, for the proposal.
        weights: digits of its weights, for the proposal.

    Raises:
        DrafterError: the highest logit is NaN or infinity.
    """
    try:
        choice = choose(logits, sampling, position)
    except ValueError as error:
        raise DrafterError(
            f"The drafter {model} computed nothing to choose from. {error} "
            "Copy its folder again, or export the model once more."
        ) from error
    return Proposal(choice.token, choice.confidence, choice.entropy, choice.margin, source, weights=weights)
