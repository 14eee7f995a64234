"""How far a student is from its target at the positions of an answer."""

from __future__ import annotations

import torch
from torch.nn.functional import cross_entropy

TOKEN_SHARE = 0.3
"""Share of the loss on the target's token itself; the rest is on its distribution."""


def distillation_loss(
    logits: torch.Tensor, wanted: torch.Tensor, rows: torch.Tensor, chances: torch.Tensor, *, token_share: float
) -> torch.Tensor:
    """Return the mean cross-entropy against the target's distribution, mixed with that against its token.

    Both are taken over the student's tokens. The target's distribution is cut to its likeliest ones and made to sum
    to one again; where the student cannot write the target's token, only the distribution counts.

    Args:
        logits: [N, K] of the student.
        wanted: int64 [N], the row of the target's token, or -1.
        rows: int64 [N, W], rows of the target's likeliest tokens.
        chances: [N, W], their log-probabilities.
        token_share: 0 for the distribution alone, 1 for the token alone.
    """
    logits = logits.float()
    share = (wanted >= 0).float() * token_share
    imitated = (torch.softmax(chances, dim=-1) * logits.gather(1, rows)).sum(dim=-1)
    hit = logits.gather(1, wanted.clamp(min=0)[:, None])[:, 0]
    return (torch.logsumexp(logits, dim=-1) - (1 - share) * imitated - share * hit).mean()


def token_loss(logits: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Return the mean cross-entropy against the target's tokens alone, which needs no pass of the target.

    Args:
        logits: [N, K] of the student.
        wanted: int64 [N], the row of the target's token; positions with -1 do not count.
    """
    total = cross_entropy(logits.float(), wanted, ignore_index=-1, reduction="sum")
    return total / (wanted >= 0).sum().clamp(min=1)
