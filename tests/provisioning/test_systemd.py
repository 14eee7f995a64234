"""The units: what systemd itself says of them, and what must be in them."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from provisioning.systemd import (
    AGENT_SPOOL,
    BESIDE,
    Device,
    ServiceRole,
    Unit,
    config_file,
    first_config,
    service_units,
)
from sled.config import ROLES, parse
from tests.provisioning.command import call

PROGRAM = str(Path(sys.executable).resolve())  # `systemd-analyze verify` wants a program that is there
EVERY = [(role, device) for role in ServiceRole for device in Device]


@pytest.fixture
def analyze() -> str:
    """The program that judges units."""
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("systemd-analyze is not installed (Debian: apt install systemd)")
    return program


def written(folder: Path, units: tuple[Unit, ...]) -> list[str]:
    """Write units, and return their paths."""
    for unit in units:
        (folder / unit.name).parent.mkdir(exist_ok=True)
        (folder / unit.name).write_text(unit.text)
    return [str(folder / unit.name) for unit in units if not unit.name.endswith(".conf")]


def run(*command: str) -> subprocess.CompletedProcess[str]:
    """Run a program to its end."""
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def exposure(analyze: str, path: str) -> float:
    """What `systemd-analyze security` makes of a service: 0 is none, 10 is all."""
    result = run(analyze, "security", "--offline=true", "--no-pager", path)
    found = re.search(r"Overall exposure level for \S+: ([\d.]+)", result.stdout)
    assert found, result.stderr
    return float(found[1])


def settings(unit: Unit) -> dict[str, list[str]]:
    """The settings of a unit, each with all its values."""
    found: dict[str, list[str]] = {}
    for line in unit.text.splitlines():
        if "=" in line and not line.startswith("#"):
            key, _, value = line.partition("=")
            found.setdefault(key, []).append(value)
    return found


@pytest.mark.parametrize("role", ServiceRole)
def test_systemd_accepts_them(analyze: str, role: ServiceRole, tmp_path: Path) -> None:
    for device in Device:
        result = run(analyze, "verify", "--man=no", *written(tmp_path, service_units(role, PROGRAM, device)))
        assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_systemd_would_say_what_is_wrong(analyze: str, tmp_path: Path) -> None:
    """So that the test above can fail."""
    (unit, *_) = service_units(ServiceRole.AGENT, PROGRAM)
    (tmp_path / unit.name).write_text(unit.text.replace("WatchdogSec=180", "WatchdogSex=180"))
    assert "WatchdogSex" in run(analyze, "verify", "--man=no", str(tmp_path / unit.name)).stderr


@pytest.mark.parametrize(("role", "device"), EVERY)
def test_exposure(analyze: str, role: ServiceRole, device: Device, tmp_path: Path) -> None:
    service, *_ = written(tmp_path, service_units(role, PROGRAM, device))
    assert exposure(analyze, service) <= 2.0


@pytest.mark.parametrize("role", ServiceRole)
def test_renewal_is_guarded_too(analyze: str, role: ServiceRole, tmp_path: Path) -> None:
    """It runs as root, since the identity is root's; root's powers it has not."""
    _, service, _ = written(tmp_path, service_units(role, PROGRAM))
    instance = shutil.copy(service, tmp_path / f"sled-renew@{role}.service")
    assert exposure(analyze, str(instance)) <= 3.0
    verified = run(analyze, "verify", "--man=no", str(instance))
    assert (verified.returncode, verified.stderr) == (0, "")


def documented() -> Unit:
    """The unit of `sled ca serve`, which people copy."""
    text = (Path(__file__).parents[2] / "docs/install.md").read_text()
    return Unit("sled-ca.service", text.partition("```ini\n")[2].partition("```")[0])


def test_systemd_accepts_the_unit_that_is_documented(analyze: str, tmp_path: Path) -> None:
    unit = documented()
    there = Unit(unit.name, unit.text.replace("/opt/sled/bin/sled", PROGRAM))
    (path,) = written(tmp_path, (there,))
    result = run(analyze, "verify", "--man=no", path)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    assert exposure(analyze, path) <= 3.0


def test_what_is_documented_is_a_command(tmp_path: Path) -> None:
    """It gets as far as the authority, which is not there; and may write where it has to."""
    found = settings(documented())
    program, *arguments = found["ExecStart"][0].split()
    assert program == "/opt/sled/bin/sled"
    here = [word.replace("/etc/sled", str(tmp_path)) for word in arguments]
    result = call(*here)
    assert f"{tmp_path / 'ca'} holds no authority" in str(result.exception)
    named = [word for word in arguments if word.startswith("/")]
    assert found["ReadWritePaths"] == [" ".join(named)]


def test_a_broker_is_certified_by_the_authority_beside_it() -> None:
    beside = service_units(ServiceRole.BROKER, PROGRAM)[-1]
    assert settings(beside)["ExecStart"] == [
        "",
        f"{PROGRAM} device rotate --ca /etc/sled/ca --identity /etc/sled/identity/%i",
    ]


@pytest.mark.parametrize(("role", "device"), EVERY)
def test_what_every_service_has(role: ServiceRole, device: Device) -> None:
    service, *renewal = service_units(role, PROGRAM, device)
    found = settings(service)
    assert found["Type"] == ["notify"]
    assert found["Restart"] == ["on-failure"]
    assert found["DynamicUser"] == ["yes"]
    assert found["StateDirectory"] == [f"sled-{role}"]
    assert {value.partition(":")[0] for value in found["LoadCredential"]} == {
        "identity.pem",
        "ca.pem",
        "enrolment.json",
    }
    assert "WatchdogSec" in found
    beside = [BESIDE] if role is ServiceRole.BROKER else []
    assert [unit.name for unit in renewal] == ["sled-renew@.service", "sled-renew@.timer", *beside]
    assert not re.search(r"@[A-Z_]+@", service.text), "every blank is filled"


def test_what_older_systems_know() -> None:
    """JetPack 6 has systemd 249, which starts nothing where it does not know a specifier, as that of credentials."""
    for role in ServiceRole:
        assert "%d" not in service_units(role, PROGRAM)[0].text
        assert "--identity ${CREDENTIALS_DIRECTORY}" in settings(service_units(role, PROGRAM)[0])["ExecStart"][0]


def test_a_role_steps_aside_while_its_certificate_is_renewed() -> None:
    """Both connect under one name, and a broker lets one of them in."""
    renewal = settings(service_units(ServiceRole.AGENT, PROGRAM)[1])
    assert "systemctl stop sled-%i.service" in renewal["ExecStartPre"][0]
    assert "systemctl --no-block start sled-%i.service" in renewal["ExecStopPost"][0], "also where it failed"


def test_the_agent_s_spool_is_in_its_own_folder() -> None:
    """Where the doctor looks for it, too."""
    found = settings(service_units(ServiceRole.AGENT, PROGRAM)[0])
    assert found["ExecStart"][0].endswith(f" --spool {AGENT_SPOOL}")
    assert str(AGENT_SPOOL.parent) == f"/var/lib/{found['StateDirectory'][0]}"


def test_devices() -> None:
    def of(device: Device) -> dict[str, list[str]]:
        return settings(service_units(ServiceRole.AGENT, PROGRAM, device)[0])

    assert of(Device.CPU)["PrivateDevices"] == ["yes"]
    assert "SupplementaryGroups" not in of(Device.CPU)
    assert (of(Device.JETSON)["PrivateDevices"], of(Device.JETSON)["SupplementaryGroups"]) == (["no"], ["video render"])
    assert of(Device.NVIDIA)["DeviceAllow"] == ["char-nvidia* rw"]


@pytest.mark.parametrize("needs_renewal", [0, 1, 2])
def test_renewal_only_when_due(needs_renewal: int, tmp_path: Path) -> None:
    """systemd skips on 1 to 254 and fails on 255: "not yet" must skip, and what cannot be said must fail."""
    program = tmp_path / "sled"
    program.write_text(f'#!/bin/sh\ntest "$*" = "device needs-renewal --identity /etc/sled/identity/agent" || exit 9\n'
                       f"exit {needs_renewal}\n")  # fmt: skip
    program.chmod(0o755)
    (condition,) = settings(service_units(ServiceRole.AGENT, str(program))[1])["ExecCondition"]
    shell = condition.removeprefix("/bin/sh -c '").removesuffix("'").replace("$$", "$").replace("%i", "agent")
    assert run("/bin/sh", "-c", shell).returncode == [0, 1, 255][needs_renewal]


@pytest.mark.parametrize("program", ["sled", "/opt/my sled", "/opt/a;b", "/opt/a\nb", '/opt/"a', "/opt/$a", ""])
def test_a_program_that_no_unit_should_name(program: str) -> None:
    with pytest.raises(ValueError, match="cannot be the program of a service"):
        service_units(ServiceRole.AGENT, program)


def test_a_percent_sign_is_not_a_specifier() -> None:
    assert "ExecStart=/opt/a%%b/sled agent" in service_units(ServiceRole.AGENT, "/opt/a%b/sled")[0].text


@pytest.mark.parametrize("role", ServiceRole)
def test_the_first_configuration(role: ServiceRole) -> None:
    """It is one, and so is each of its suggestions."""
    assert set(ROLES) == set(ServiceRole)
    text = first_config(role)
    parse(text.encode(), config_file(role).name, role)
    suggested = re.sub(r"^#(?=[a-z-]+: )", "", text, flags=re.MULTILINE)
    assert len(parse(suggested.encode(), config_file(role).name, role)) >= 4
