"""The commands as a person meets them: what they print, and with which exit code."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from provisioning.authority_folder import AuthorityFolder
from provisioning.errors import ProvisioningError
from provisioning.identity_folder import Identity, IdentityFolder, Place
from provisioning.role import Role
from provisioning.token import decode
from schemas.errors import InvalidTopic
from tests.provisioning.bench import DAY, NAMES
from tests.provisioning.bench import machine as made
from tests.provisioning.command import call, process

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def ca(tmp_path: Path) -> str:
    """A new authority's folder."""
    folder = tmp_path / "ca"
    AuthorityFolder(folder).create("fleet", now=datetime.now(UTC))
    return str(folder)


def said(*arguments: str) -> dict[str, Any]:
    """Return the JSON object on the last line of a command that worked."""
    result = call(*arguments, "--json")
    assert result.exit_code == 0, result.output
    answer: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return answer


@pytest.mark.parametrize(
    "command",
    [
        "ca", "ca init", "ca crl", "ca serve", "device", "device create", "device list", "device show", "device sign",
        "device revoke", "device delete", "device rotate", "device needs-renewal", "token", "token create", "enroll",
    ],
)  # fmt: skip
def test_every_command_has_help(command: str) -> None:
    result = call(*command.split(), "--help")
    assert result.exit_code == 0
    assert "Usage" in result.stdout


def test_by_file_from_nothing_to_revoked(tmp_path: Path) -> None:
    ca, identity, csr = str(tmp_path / "ca"), str(tmp_path / "pi"), str(tmp_path / "pi.csr")
    assert said("ca", "init", "--ca", ca)["changed"]
    assert said("device", "create", "pi", "--ca", ca)["state"] == "registered"
    assert said("enroll", "--name", "pi", "--csr-out", csr, "--identity", identity)["pending"] == csr
    signed = said("device", "sign", csr, "--ca", ca, "--days", "30")
    assert said("enroll", "--certificate", signed["file"], "--identity", identity)["role"] == "device"
    assert said("device", "show", "pi", "--ca", ca)["state"] == "enrolled"
    assert said("device", "rotate", "--csr-out", csr, "--identity", identity)["pending"] == csr
    said("device", "sign", csr, "--ca", ca)
    assert said("device", "rotate", "--certificate", signed["file"], "--identity", identity)["changed"]
    assert len(said("device", "list", "--ca", ca)["devices"][0]["certificates"]) == 2
    assert said("device", "revoke", "pi", "--ca", ca)["state"] == "revoked"
    assert said("device", "delete", "pi", "--ca", ca)["changed"]
    assert not said("device", "delete", "pi", "--ca", ca)["changed"]
    assert said("ca", "crl", "--ca", ca)["revoked"] == 2


def test_for_people(ca: str, tmp_path: Path) -> None:
    assert "no device is registered" in call("device", "list", "--ca", ca).stdout
    shown = call(
        "device",
        "create",
        "broker",
        "--role",
        "broker",
        "--host",
        "desk",
        "--ca",
        ca,
        "--identity",
        str(tmp_path / "b"),
    )
    assert shown.exit_code == 0
    assert "host desk" in shown.stdout
    listed = call("device", "list", "--ca", ca).stdout
    assert "broker" in listed
    assert "enrolled" in listed
    assert "left as it is" in call("ca", "init", "--ca", ca).stdout


def test_a_token_on_the_only_line(ca: str) -> None:
    said("device", "create", "pi", "--ca", ca)
    result = call("token", "create", "pi", "--broker", "mqtts://desk", "--ttl", "2h", "--ca", ca)
    ticket = decode(result.stdout)
    assert (ticket.device, ticket.broker) == ("pi", "mqtts://desk")


def test_a_token_from_standard_input(ca: str, tmp_path: Path) -> None:
    said("device", "create", "pi", "--ca", ca)
    token = call("token", "create", "pi", "--broker", "mqtts://desk", "--ca", ca).stdout
    result = call("enroll", "--token", "-", "--dry-run", "--identity", str(tmp_path / "pi"), stdin=token)
    assert result.exit_code == 0
    assert "would get a new certificate" in result.stdout
    csr = tmp_path / "pi.csr"
    call("enroll", "--token", token, "--csr-out", str(csr), "--identity", str(tmp_path / "pi"))
    assert csr.exists()


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_names_that_no_machine_may_have(ca: str, name: str) -> None:
    for command in (["device", "create"], ["device", "revoke"], ["device", "delete"], ["device", "show"]):
        assert isinstance(call(*command, "--ca", ca, "--", name).exception, InvalidTopic)


@pytest.mark.parametrize(
    "arguments",
    [
        ["token", "create", "pi", "--broker", "mqtts://desk", "--ttl", "soon"],
        ["token", "create", "pi", "--broker", "mqtts://desk", "--ttl", "-1m"],
        ["token", "create", "pi", "--broker", "http://desk"],
        ["device", "create", "pi", "--role", "enrolment"],
        ["device", "create", "pi", "--role", "king"],
        ["device", "sign", "pi.pem"],
        ["enroll"],
        ["enroll", "--csr-out", "pi.csr"],
    ],
)
def test_wrong_command_lines(arguments: list[str], ca: str) -> None:
    extra = [] if arguments[0] == "enroll" else ["--ca", ca]
    assert call(*arguments, *extra).exit_code == 2


def test_a_passphrase(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ca, secret = str(tmp_path / "ca"), tmp_path / "secret"
    secret.write_text("open sesame\n")
    secret.chmod(0o644)
    refused = call("ca", "init", "--ca", ca, "--passphrase-file", str(secret)).exception
    assert "has mode 0644, so that others than its owner can get at it" in str(refused)
    secret.chmod(0o600)
    said("ca", "init", "--ca", ca, "--passphrase-file", str(secret))
    said("device", "create", "pi", "--ca", ca)
    assert isinstance(call("device", "revoke", "pi", "--ca", ca).exception, ProvisioningError)
    monkeypatch.setenv("SLED_CA_PASSPHRASE", "open sesame")
    said("device", "revoke", "pi", "--ca", ca)
    secret.write_text("")
    assert call("ca", "crl", "--ca", ca, "--passphrase-file", str(secret)).exit_code == 2


def test_a_dry_run_says_what_would_change(tmp_path: Path) -> None:
    """And what would not; nothing is written."""
    ca, request, certificate = str(tmp_path / "ca"), tmp_path / "pi.csr", tmp_path / "pi.pem"
    said("ca", "init", "--ca", ca)
    said("device", "create", "pi", "--ca", ca)
    said("enroll", "--name", "pi", "--csr-out", str(request), "--identity", str(tmp_path / "pi"))
    listed, signing = ("ca", "crl", "--ca", ca), ("device", "sign", str(request), "--ca", ca)
    (tmp_path / "ca" / "crl.pem").unlink()
    for command in (listed, signing):
        assert said(*command, "--dry-run")["changed"]
        assert not certificate.exists()
        assert said(*command)["changed"]
        assert not said(*command, "--dry-run")["changed"]
        assert not said(*command)["changed"]


@pytest.mark.parametrize(
    ("kind", "names", "shows"),
    [
        ("emqx", ["acl.conf"], "device/pi/"),
        ("mosquitto-dynsec", ["dynamic-security.json"], '"username": "pi"'),
        ("mosquitto", ["mosquitto.acl"], "user pi"),
        ("embedded", ["access.json"], '"pi"'),
    ],
)
def test_rules_for_every_kind_of_broker(tmp_path: Path, kind: str, names: list[str], shows: str) -> None:
    ca, out = str(tmp_path / "ca"), tmp_path / "rules"
    said("ca", "init", "--ca", ca)
    command = ("ca", "rules", "--for", kind, "--out", str(out), "--ca", ca)
    assert said(*command, "--dry-run")["changed"]
    assert not out.exists()
    said("device", "create", "pi", "--ca", ca)
    assert said(*command) == {"files": [str(out / name) for name in names], "changed": True, "dry_run": False}
    assert shows in (out / names[0]).read_text()
    assert not said(*command)["changed"]
    said("device", "delete", "pi", "--ca", ca)
    assert said(*command)["changed"]
    assert shows not in (out / names[0]).read_text()


def test_another_root_is_a_change(tmp_path: Path) -> None:
    ca = str(tmp_path / "ca")
    said("ca", "init", "--ca", ca)
    for options, changed in ((["--dry-run"], True), ([], True), (["--dry-run"], False), ([], False)):
        assert said("ca", "init", "--ca", ca, "--root", "lab", *options)["changed"] is changed


def needs_renewal(tmp_path: Path) -> Any:
    return call("device", "needs-renewal", "--identity", str(tmp_path / "pi"), "--json")


def test_needs_renewal_says_it_by_exit_code(ca: str, tmp_path: Path) -> None:
    authority, now = AuthorityFolder(tmp_path / "ca").authority(), datetime.now(UTC)
    folder = IdentityFolder(tmp_path / "pi")
    folder.path.mkdir()
    assert needs_renewal(tmp_path).exit_code == 2
    for lifetime, code in ((90 * DAY, 1), (DAY / 86_400, 0)):
        own = made(authority, "pi", Role.DEVICE, now=now, lifetime=lifetime)
        folder.install(Identity(own.certificate, own.key, authority.certificate), Place("pi"))
        result = needs_renewal(tmp_path)
        assert result.exit_code == code
        assert json.loads(result.stdout)["renew"] is (code == 0)
    folder.identity_file.chmod(0o644)
    result = needs_renewal(tmp_path)
    assert result.exit_code == 2
    assert "chmod 600" in result.stderr


def test_what_a_terminal_shows(ca: str) -> None:
    """One sentence, no traceback, exit code 1."""
    result = process("device", "revoke", "pj", "--ca", ca)
    assert result.returncode == 1
    assert result.stderr == "sled: no device 'pj' is registered: `sled device list` shows those that are\n"
    assert result.stdout == ""
