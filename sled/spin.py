"""How long OpenMP's threads wait for each other before they go to sleep. To be said before torch is loaded.

libgomp has them spin for milliseconds, hundreds of times in a step. On cores of their own that is well; where other
processes want the cores too, a thread then spins in the time in which the one it waits for could have run, and a step
on two threads takes ten times as long as on one. With so few turns a step is as fast on cores of its own (within noise:
72 and 76 ms for SmolLM2-135M on two), and on busy ones takes 0.45 instead of 2.1 s.
"""

from __future__ import annotations

import os
from typing import Final

TURNS: Final = "5000"
"""Of the loop in which a thread waits: tens of microseconds."""


def spin_briefly() -> None:
    """Have them sleep soon, unless somebody has said otherwise."""
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", TURNS)
