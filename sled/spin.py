"""How long OpenMP's threads wait for each other before they go to sleep. To be said before torch is loaded.

libgomp has them spin for milliseconds, hundreds of times in a step. On cores of their own that is well; where other
processes want the cores too, a thread then spins in the time in which the one it waits for could have run, and a step
on two threads takes ten times as long as on one. With too few turns they sleep and wake between any two loops, even on
cores of their own. Medians of a step of SmolLM2-135M on two threads of two cores, quiet and beside three processes that
never rest: 5,000 turns 83 to 214 and 350 ms, 20,000 turns 63 to 94 and 326 ms, 300,000 (the default) 67 to 88 ms and
2.1 s.
"""

from __future__ import annotations

import os
from typing import Final

TURNS: Final = "20000"
"""Of the loop in which a thread waits: about a tenth of a millisecond."""


def spin_briefly() -> None:
    """Have them sleep soon, unless somebody has said otherwise."""
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", TURNS)
