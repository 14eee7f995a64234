"""The systemd units of the roles, rendered from the templates in `units/`. Pure but for reading those.

A user of its own that exists only while the service runs (`DynamicUser=`) rather than one from sysusers.d: nothing is
left behind, nothing but the units has to be written into an image, and with it come a read-only system, a private /tmp
and no set-user-id programs. Files of the service stay its own: systemd hands its folders over at each start.
"""

from __future__ import annotations

import re
from enum import StrEnum
from importlib.resources import files
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Final

from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Mapping

UNITS: Final = PurePosixPath("/etc/systemd/system")
CONFIG: Final = PurePosixPath("/etc/sled")
MARK: Final = (
    "# Written by `sled install`. It is replaced when that runs again: `systemctl edit` keeps what you change.\n"
)
"""The first line of every unit, by which ours are known."""
RENEWAL: Final = ("sled-renew@.service", "sled-renew@.timer")
"""Units that the roles of a machine share; their instance is the role."""
BESIDE: Final = "sled-renew@broker.service.d/authority.conf"
"""How the renewal of a broker differs."""


AGENT_SPOOL: Final = PurePosixPath("/var/lib/sled-agent/spool.db")
"""Where an agent that runs as a service keeps its requests. The unit says so, since it is replaced by a newer one while
a configuration stays: an older one would not name it, and open requests would be left behind."""


class ServiceRole(StrEnum):
    """What runs as a service."""

    AGENT = "agent"
    VERIFIER = "verifier"
    BROKER = "broker"


class Device(StrEnum):
    """What a role computes on."""

    CPU = "cpu"
    JETSON = "jetson"
    """The GPU of an NVIDIA Jetson, whose devices belong to the groups video and render."""
    NVIDIA = "nvidia"
    """An NVIDIA GPU in a server."""


class Unit(Struct, frozen=True):
    """A file of systemd.

    Attributes:
        name: of the file, in UNITS.
        text: what is in it.
    """

    name: str
    text: str


def identity_folder(role: ServiceRole) -> PurePosixPath:
    """Return where the identity of a service is kept: root's, for root to renew."""
    return CONFIG / "identity" / role


def config_file(role: ServiceRole) -> PurePosixPath:
    """Return where the configuration of a service is."""
    return CONFIG / f"{role}.yaml"


def service_units(role: ServiceRole, program: str, device: Device = Device.CPU) -> tuple[Unit, ...]:
    """Return the units of a role: the service, and the renewal of its certificate.

    A broker is nobody's client, so the authority beside it renews its certificate.

    Args:
        role: which.
        program: absolute path of the `sled` command.
        device: what it computes on.

    Raises:
        ValueError: the program is no absolute path, or has characters that no path of a unit should have.
    """
    words = {
        "PROGRAM": quoted(program),
        "ROLE": str(role),
        "DESCRIPTION": _DESCRIPTIONS[role],
        "OPTIONS": _OPTIONS[role],
        "WATCHDOG": _WATCHDOGS[role],
        "DEVICES": "\n".join(_devices(role, device)),
    }
    service = Unit(f"sled-{role}.service", _filled("sled-role.service", words))
    beside = Unit(BESIDE, _filled("sled-renew@broker.conf", words))
    return (service, *renewal_units(program), *((beside,) if role is ServiceRole.BROKER else ()))


def renewal_units(program: str) -> tuple[Unit, ...]:
    """Return the units that renew the certificate of a role; they are shared, and their instance is the role."""
    words = {"PROGRAM": quoted(program)}
    return tuple(Unit(name, _filled(name, words)) for name in RENEWAL)


def first_config(role: ServiceRole) -> str:
    """Return a configuration to begin with, in which everything is as it would be without."""
    return files("provisioning").joinpath("units", f"{role}.yaml").read_text()


def quoted(program: str) -> str:
    """Return a path as an `ExecStart=` has it (systemd.service(5), systemd.unit(5) on specifiers).

    Raises:
        ValueError: as `service_units`.
    """
    if not re.fullmatch(r"/[\w./+@:,=%~-]*", program, re.ASCII):
        raise ValueError(
            f"{program!r} cannot be the program of a service: it must be an absolute path of letters, digits and "
            "/ . _ + - without spaces; install sled in /opt/sled"
        )
    return program.replace("%", "%%")


_DESCRIPTIONS: Final = {
    ServiceRole.AGENT: "SLED agent: drafts on this device, and answers apps",
    ServiceRole.VERIFIER: "SLED verifier: one target checks the drafts of many devices",
    ServiceRole.BROKER: "SLED broker: MQTT for the fleet",
}
_OPTIONS: Final = {
    ServiceRole.AGENT: f" --spool {AGENT_SPOOL}",
    ServiceRole.VERIFIER: "",
    ServiceRole.BROKER: " --state %S/sled-broker/mqtt",
}
_WATCHDOGS: Final = {
    ServiceRole.AGENT: (
        "# The first draft after a long prompt reads all of it: on a small device that takes a minute or two.\n"
        "WatchdogSec=180"
    ),
    ServiceRole.VERIFIER: "WatchdogSec=120",
    ServiceRole.BROKER: "WatchdogSec=120\n# A thousand connections, and the files beside them.\nLimitNOFILE=4096",
}


def _devices(role: ServiceRole, device: Device) -> list[str]:
    # numba, oneDNN and CUDA write code while they run.
    exact = role is not ServiceRole.VERIFIER and device is Device.CPU
    lines = [
        *([] if exact else ["# Code for this very processor is made while it runs."]),
        f"MemoryDenyWriteExecute={'yes' if exact else 'no'}",
        "# /proc/cpuinfo says what instructions there are; without it drafting is slow on Arm.",
        "ProcSubset=all",
    ]
    match device:
        case Device.CPU:
            return [*lines, "PrivateDevices=yes", "DevicePolicy=closed"]
        case Device.JETSON:
            return [
                *lines,
                "# CUDA needs /dev/nvmap, /dev/nvhost-* and /dev/nvgpu*, which are of the group video, and /dev/dri.",
                "PrivateDevices=no",
                "PrivateUsers=no",
                "SupplementaryGroups=video render",
            ]
        case Device.NVIDIA:
            return [
                *lines,
                "# The devices must be there when the service starts: `systemctl enable nvidia-persistenced`.",
                "PrivateDevices=no",
                "DevicePolicy=closed",
                "DeviceAllow=char-nvidia* rw",
            ]


def _filled(name: str, words: Mapping[str, str]) -> str:
    text = files("provisioning").joinpath("units", name).read_text()
    return MARK + re.sub(r"@([A-Z_]+)@", lambda found: words[found[1]], text)
