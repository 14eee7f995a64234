"""The sampling noise of `schemas.noise` for tensors, on whatever device they are."""

from __future__ import annotations

import torch

from schemas.noise import gumbel

_LOW = 0xFFFFFFFF
_ROUNDS = 10
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
_RESOLUTION = 2.0**32


def noise(tokens: torch.Tensor, positions: torch.Tensor, seeds: torch.Tensor) -> torch.Tensor:
    """Return G in float64 (see `schemas.noise.gumbel`), on the device of the tokens.

    Args:
        tokens: int64, any shape.
        positions: int64, of a shape that broadcasts to that of the tokens.
        seeds: int64, likewise; the 64 bits of the seed.
    """
    if tokens.device.type == "cpu":
        # numpy multiplies 64-bit integers about three times as fast.
        words = (positions.expand(tokens.shape).numpy(), seeds.expand(tokens.shape).numpy())
        return torch.from_numpy(gumbel(tokens.numpy(), *words))
    uniform = (philox(tokens, positions, seeds).double() + 0.5) / _RESOLUTION
    return -torch.log(-torch.log(uniform))


def philox(tokens: torch.Tensor, positions: torch.Tensor, seeds: torch.Tensor) -> torch.Tensor:
    """Return the first word of Philox4x32-10 as int64 in [0, 2³²) (arguments as `noise`; see `schemas.noise.philox`).

    Products wrap around in int64 and shifts bring down copies of the sign; both only touch high halves, which are
    masked away.
    """
    m0, m1 = _MULTIPLIERS
    k0, k1 = seeds & _LOW, (seeds >> 32) & _LOW
    c0, c1 = tokens & _LOW, positions & _LOW
    c2 = c3 = torch.zeros_like(c0)
    for _ in range(_ROUNDS):
        p0, p1 = m0 * c0, m1 * c2
        c0, c2 = ((p1 >> 32) ^ c1 ^ k0) & _LOW, ((p0 >> 32) ^ c3 ^ k1) & _LOW
        c1, c3 = p1 & _LOW, p0 & _LOW
        k0, k1 = (k0 + _KEY_STEPS[0]) & _LOW, (k1 + _KEY_STEPS[1]) & _LOW
    return c0
