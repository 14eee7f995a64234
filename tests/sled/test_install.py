"""`sled install` and `sled uninstall`, into a folder."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import typer
from typer.testing import CliRunner

from provisioning.errors import ProvisioningError
from provisioning.systemd import ServiceRole
from provisioning.systemd_install import Installation
from sled import install
from sled.install import own_program
from tests.provisioning.bench import full_disk

if TYPE_CHECKING:
    from pathlib import Path

SLED = "/opt/sled/bin/sled"


def said(root: Path, *arguments: str) -> dict[str, Any]:
    """Return what a command says as JSON."""
    app = typer.Typer()
    install.mount(app)
    result = CliRunner().invoke(app, [*arguments, "--root", str(root), "--json"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    answer: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return answer


def below(root: Path) -> dict[str, bytes]:
    """All files below a folder."""
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_from_nothing_and_back(tmp_path: Path) -> None:
    first = said(tmp_path, "install", "agent", "--program", SLED)
    assert first["changed"]
    assert {file["what"] for file in first["files"]} == {"made"}
    assert set(below(tmp_path)) == {
        "etc/systemd/system/sled-agent.service",
        "etc/systemd/system/sled-renew@.service",
        "etc/systemd/system/sled-renew@.timer",
        "etc/sled/agent.yaml",
    }
    assert (tmp_path / "etc/sled/identity/agent").stat().st_mode & 0o777 == 0o700
    before = below(tmp_path)
    assert not said(tmp_path, "install", "agent", "--program", SLED)["changed"]
    assert below(tmp_path) == before
    assert said(tmp_path, "uninstall", "agent")["changed"]
    assert set(below(tmp_path)) == {"etc/sled/agent.yaml"}, "configuration and identity stay"
    assert not said(tmp_path, "uninstall", "agent")["changed"]


def test_dry_runs_change_nothing(tmp_path: Path) -> None:
    assert said(tmp_path, "install", "verifier", "--program", SLED, "--dry-run")["changed"]
    assert not list(tmp_path.iterdir())
    said(tmp_path, "install", "verifier", "--program", SLED)
    before = below(tmp_path)
    assert said(tmp_path, "uninstall", "verifier", "--purge", "--dry-run")["changed"]
    assert below(tmp_path) == before


def test_again_with_another_device(tmp_path: Path) -> None:
    """The unit follows; what a person wrote stays."""
    said(tmp_path, "install", "agent", "--program", SLED)
    config = tmp_path / "etc/sled/agent.yaml"
    config.write_text("threads: 4\n")
    again = said(tmp_path, "install", "agent", "--program", SLED, "--device", "jetson")
    what = {file["path"].rpartition("/")[2]: file["what"] for file in again["files"]}
    assert what == {
        "sled-agent.service": "changed",
        "sled-renew@.service": "there already",
        "sled-renew@.timer": "there already",
        "agent.yaml": "kept",
        "agent": "there already",
    }
    assert config.read_text() == "threads: 4\n"


def test_roles_share_the_renewal(tmp_path: Path) -> None:
    said(tmp_path, "install", "agent", "--program", SLED)
    said(tmp_path, "install", "broker", "--program", SLED)
    said(tmp_path, "uninstall", "agent")
    units = tmp_path / "etc/systemd/system"
    shared = {"sled-renew@.service", "sled-renew@.timer"}
    assert {path.name for path in units.iterdir()} == {
        "sled-broker.service",
        "sled-renew@broker.service.d",
        *shared,
    }
    said(tmp_path, "install", "verifier", "--program", SLED)
    said(tmp_path, "uninstall", "broker")
    assert {path.name for path in units.iterdir()} == {"sled-verifier.service", *shared}
    said(tmp_path, "uninstall", "verifier")
    assert not list(units.iterdir())


def test_purge_takes_all_of_one_role(tmp_path: Path) -> None:
    said(tmp_path, "install", "agent", "--program", SLED)
    said(tmp_path, "install", "broker", "--program", SLED)
    state = tmp_path / "var/lib/private/sled-agent"
    state.mkdir(parents=True)
    (state / "spool.db").write_bytes(b"prompts")
    (tmp_path / "var/lib/sled-agent").symlink_to("private/sled-agent")
    (tmp_path / "etc/sled/identity/agent/identity.pem").write_bytes(b"key")
    enabled = tmp_path / "etc/systemd/system/multi-user.target.wants/sled-agent.service"
    enabled.parent.mkdir()
    enabled.symlink_to("../sled-agent.service")
    said(tmp_path, "uninstall", "agent", "--purge")
    assert {path.rpartition("/")[2] for path in below(tmp_path)} == {
        "sled-broker.service",
        "sled-renew@.service",
        "sled-renew@.timer",
        "authority.conf",
        "broker.yaml",
    }
    assert not enabled.is_symlink()
    assert not (tmp_path / "var/lib/sled-agent").is_symlink()


def test_somebody_else_s_unit_stays(tmp_path: Path) -> None:
    unit = tmp_path / "etc/systemd/system/sled-agent.service"
    unit.parent.mkdir(parents=True)
    unit.write_text("[Service]\n")
    with pytest.raises(ProvisioningError, match="was not written by `sled install`"):
        Installation(ServiceRole.AGENT, tmp_path).install(SLED)
    with pytest.raises(ProvisioningError, match="was not written by `sled install`"):
        Installation(ServiceRole.AGENT, tmp_path).uninstall(purge=True)
    assert set(below(tmp_path)) == {"etc/systemd/system/sled-agent.service"}


def test_a_full_disk_writes_no_unit(tmp_path: Path) -> None:
    with full_disk(1_000), pytest.raises(ProvisioningError, match="the disk is full"):
        Installation(ServiceRole.AGENT, tmp_path).install(SLED)
    assert not below(tmp_path)


@pytest.mark.parametrize(
    ("program", "wrong"),
    [
        ("/home/pi/.venv/bin/sled", "a service sees nothing below /home/"),
        ("sled", "must be an absolute path"),
        ("/opt/my sled/bin/sled", "without spaces"),
    ],
)
def test_a_program_that_a_service_cannot_run(tmp_path: Path, program: str, wrong: str) -> None:
    with pytest.raises(ProvisioningError, match=wrong):
        Installation(ServiceRole.AGENT, tmp_path).install(program)


def test_a_root_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ProvisioningError, match="there is no folder"):
        Installation(ServiceRole.AGENT, tmp_path / "typo").install(SLED)


def test_the_command_itself_is_found() -> None:
    assert own_program().endswith("/sled")
