"""Whether this machine's clock can be right.

No message of SLED carries a time of day, announcements included: all durations count from receipt, because a Pi has no
clock it can trust. TLS does: certificates have dates. So the clock is held against the certificates at hand, which were
issued in the past, and against what the system says of its time synchronisation.
"""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING, Final

from provisioning.certificate import shown
from sled.checks.check import Check, failed, ok, warning

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

NAME: Final = "clock"
_SET: Final = "set it: `timedatectl set-ntp true`, or by hand with `date`"


def check_clock(now: datetime, begun: Mapping[str, datetime], *, synchronised: bool | None) -> Check:
    """Judge the clock.

    Args:
        now: what it says.
        begun: what has certainly begun already, by name: certificates at hand and when they became valid.
        synchronised: whether the system says that its time comes from the network; None if it does not say.
    """
    behind = {what: since for what, since in begun.items() if since > now}
    if behind:
        what, since = max(behind.items(), key=lambda item: item[1])
        return failed(NAME, f"it says {shown(now)}, and {what} is valid since {shown(since)}: it is behind", _SET)
    against = f"later than the dates of {' and '.join(begun)}" if begun else "there is nothing to hold it against"
    if synchronised is False:
        return warning(NAME, f"it says {shown(now)}, {against}; the system says that it is not synchronised", _SET)
    source = ", synchronised" if synchronised else ""
    return ok(NAME, f"it says {shown(now)}{source}; {against}")


def is_synchronised() -> bool | None:
    """Return whether systemd says that the clock is synchronised; None where it says nothing."""
    program = shutil.which("timedatectl")
    if program is None:
        return None
    try:
        said = subprocess.run(
            [program, "show", "--property=NTPSynchronized", "--value"],
            capture_output=True,
            text=True,
            timeout=5,
            check=False,
        ).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return None
    return {"yes": True, "no": False}.get(said)
