"""The `sled` command as a person meets it: what it says, where, and with which exit code."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from broker.port import claim
from tests.waiting import wait_for

if TYPE_CHECKING:
    from broker.run import RunningBroker


def sled(*arguments: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    return subprocess.run(
        [sys.executable, "-m", "sled", *arguments], capture_output=True, text=True, timeout=timeout, check=False
    )


def sentence(result: subprocess.CompletedProcess[str]) -> str:
    """Return the last line on standard error; there must be no traceback above it."""
    assert "Traceback" not in result.stderr
    return result.stderr.strip().splitlines()[-1]


@pytest.mark.parametrize(
    "command",
    [
        "",
        "broker",
        "verifier",
        "agent",
        "ask",
        "sweep",
        "demo",
        "model pull",
        "model export",
        "draft distill",
        "install",
        "uninstall",
    ],
)
def test_every_command_has_help(command: str) -> None:
    result = sled(*command.split(), "--help")
    assert result.returncode == 0
    assert "Usage" in result.stdout


@pytest.mark.parametrize(
    "bench",
    [
        "roundtrip",
        "verify-step",
        "draft-token",
        "lossless",
        "choose",
        "batching",
        "speedup",
        "policies",
        "acceptance",
        "replay",
        "faults",
    ],
)
def test_every_bench_has_help(bench: str) -> None:
    result = sled("bench", bench, "--help")
    assert result.returncode == 0
    assert "usage" in result.stdout.lower()


def test_agent_needs_no_torch(tiny_drafter: Path, tmp_path: Path) -> None:
    """A device has only the extra [edge]: here torch and its company cannot be imported, and the agent drafts."""
    program = f"""
import sys
for name in ("torch", "accelerate", "gguf", "onnx", "onnxruntime_genai", "amqtt"):
    sys.modules[name] = None
from pathlib import Path
import sled.cli, sled.run
from edge_agent.service import Agent, AgentOptions
from edge_agent.drafters.onnx import OnnxDrafter
from edge_agent.policy import parse_policy
from edge_agent.spool import Spool
from edge_agent.tokenizer import ChatTokenizer
from broker.address import BrokerAddress
folder = Path({str(tiny_drafter)!r})
tokenizer = ChatTokenizer.load(folder)
drafter = OnnxDrafter(folder, vocab_limit=tokenizer.vocab_size)
Agent(AgentOptions("pi", BrokerAddress()), drafter, tokenizer, parse_policy("fixed:4"), Spool(None))
print(drafter.propose(tokenizer.encode_text("abc")).token)
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) >= 0


def test_ask_without_a_broker_says_so() -> None:
    port = claim("127.0.0.1", 0)
    result = sled("ask", "pi", "abc", "--broker", f"127.0.0.1:{port}")
    assert result.returncode == 1
    assert f"127.0.0.1:{port}" in sentence(result)
    assert "sled broker" in sentence(result)


def test_ask_to_an_unknown_device_says_so(broker: RunningBroker) -> None:
    result = sled("ask", "nobody", "abc", "--broker", f"127.0.0.1:{broker.port}", "--timeout", "1")
    assert result.returncode == 1
    assert "sled agent nobody" in sentence(result)


def test_malformed_device_id_is_a_usage_error() -> None:
    """It is seen before anybody connects."""
    result = sled("ask", "pi/+", "abc", "--broker", f"127.0.0.1:{claim('127.0.0.1', 0)}")
    assert result.returncode == 2
    assert "lower-case" in result.stderr


def test_malformed_address_is_a_usage_error() -> None:
    result = sled("ask", "pi", "abc", "--broker", "mqtt://host:notaport")
    assert result.returncode == 2
    assert "--broker" in result.stderr


def test_broker_on_a_port_in_use_says_so() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        result = sled("broker", "--engine", "embedded", "--port", str(port))
    assert result.returncode == 1
    assert f"port {port} on 127.0.0.1 is in use" in sentence(result)


def test_missing_target_says_so(tmp_path: Path) -> None:
    result = sled("verifier", "--target", str(tmp_path / "nothing"))
    assert result.returncode == 1
    assert "nothing" in sentence(result)


def test_corrupt_target_says_so(tiny_target: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(tiny_target, broken)
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    result = sled("verifier", "--target", str(broken))
    assert result.returncode == 1
    assert "model.safetensors" in sentence(result)


def test_missing_drafter_says_so(tmp_path: Path) -> None:
    result = sled("agent", "pi", "--drafter", str(tmp_path / "nothing"), "--spool", str(tmp_path / "spool.db"))
    assert result.returncode == 1
    assert "nothing" in sentence(result)


def test_corrupt_drafter_says_so(tiny_drafter: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(tiny_drafter, broken)
    model = broken / "model.onnx"
    model.write_bytes(model.read_bytes()[: model.stat().st_size // 2])
    result = sled("agent", "pi", "--drafter", str(broken), "--spool", str(tmp_path / "spool.db"))
    assert result.returncode == 1
    assert "model.onnx" in sentence(result)


def test_record_that_cannot_be_written_says_so(tiny_drafter: Path, tmp_path: Path) -> None:
    result = sled(
        "agent", "pi", "--drafter", str(tiny_drafter), "--record", str(tmp_path), "--spool", str(tmp_path / "spool.db")
    )
    assert result.returncode == 2
    assert "cannot be recorded in" in " ".join(result.stderr.replace("│", " ").split())


def test_unknown_policy_says_so(tiny_drafter: Path, tmp_path: Path) -> None:
    result = sled(
        "agent", "pi", "--drafter", str(tiny_drafter), "--policy", "wild:7", "--spool", str(tmp_path / "spool.db")
    )
    assert result.returncode == 2
    assert "fixed:" in result.stderr
    assert "Traceback" not in result.stderr


def test_agent_waits_for_a_broker_that_is_down(tiny_drafter: Path, tmp_path: Path) -> None:
    """It says so and goes on trying; SIGTERM ends it in good order."""
    port = claim("127.0.0.1", 0)
    log = tmp_path / "log"
    with log.open("w") as out:
        agent = subprocess.Popen(
            [
                sys.executable, "-m", "sled", "agent", "pi", "--broker", f"127.0.0.1:{port}",
                "--drafter", str(tiny_drafter), "--spool", str(tmp_path / "spool.db"),
            ],
            stderr=out,
        )  # fmt: skip
        give_up = time.monotonic() + 60
        while "no broker answers" not in log.read_text():
            assert agent.poll() is None
            assert time.monotonic() < give_up
            time.sleep(0.1)
        agent.send_signal(signal.SIGTERM)
        assert agent.wait(30) == 0
    assert "Traceback" not in log.read_text()


def test_demo_streams_and_checks(tiny_target: Path, tiny_drafter: Path) -> None:
    """All roles as processes; the last line is one JSON object."""
    result = sled(
        "demo", "--check", "--json", "--target", str(tiny_target), "--drafter", str(tiny_drafter),
        "--broker", "embedded", "--max-tokens", "20", "abc", "Why is the sky blue?",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout.splitlines()[-1])
    assert report["identical"] is True
    assert report["total"]["answers"] == 2
    assert report["broker"] == "embedded"
    assert report["total"]["tokens"] == sum(len(answer["tokens"]) for answer in report["answers"])
    assert "mean accepted length" in result.stdout + result.stderr


def test_demo_with_several_devices_shows_them_side_by_side(tiny_target: Path, tiny_drafter: Path) -> None:
    """Different drafters, the same text; a row for each device and the whole system below."""
    result = sled(
        "demo", "--devices", "3", "--check", "--json", "--target", str(tiny_target),
        "--drafter", str(tiny_drafter), "--drafter", "lookup", "--max-tokens", "20", "abc abc abc",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout.splitlines()[-1])
    assert report["identical"] is True
    assert len({tuple(answer["tokens"]) for answer in report["answers"]}) == 1
    assert [device["drafter"] for device in report["devices"].values()] == [
        "tiny-drafter, cost-aware", "lookup, cost-aware", "tiny-drafter, cost-aware",
    ]  # fmt: skip
    assert report["mean_batch_size"] >= 1
    assert report["tokens_per_second"] > 0
    shown = result.stdout + result.stderr
    assert "whole-system token generation rate (WSTGR)" in shown
    assert "device-3" in shown


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_demo_that_is_ended_leaves_nothing_behind(how: signal.Signals, tiny_target: Path) -> None:
    command = ["demo", "--target", str(tiny_target), "--drafter", "lookup", "--max-tokens", "500", *["abc " * 20] * 50]
    demo = subprocess.Popen([sys.executable, "-m", "sled", *command], stdout=subprocess.DEVNULL)
    try:
        children = Path(f"/proc/{demo.pid}/task/{demo.pid}/children")
        wait_for(lambda: len(children.read_text().split()) >= 2)
        started = [int(pid) for pid in children.read_text().split()]
        demo.send_signal(how)
        assert demo.wait(60) == (143 if how == signal.SIGTERM else -signal.SIGKILL)
    finally:
        demo.kill()
        demo.wait()
    wait_for(lambda: not [pid for pid in started if Path(f"/proc/{pid}").exists()])


def test_demo_shows_why_a_role_did_not_start(tiny_target: Path, tmp_path: Path) -> None:
    """The end of the role's log, not a time-out."""
    result = sled("demo", "--target", str(tiny_target), "--drafter", str(tmp_path / "nothing"), "abc")
    assert result.returncode == 1
    assert "nothing" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.real_model
def test_default_target_is_answered_identically() -> None:
    """The default target and the drafter that comes with sled, four prompts, float32: the text is the target's own."""
    prompts = [
        "Why is the sky blue?",
        "A shop sells 3 apples for $2. How much do 12 apples cost?",
        "Write a short poem about the sea.",
        "¿Qué es un átomo? 🙂",
    ]
    result = sled("demo", "--check", "--json", "--max-tokens", "48", *prompts, timeout=280)
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout.splitlines()[-1])
    assert report["identical"] is True
    assert report["total"]["mean_accepted_length"] > 1.2, "48 tokens of kinds that it guesses badly"


@pytest.mark.parametrize(
    ("command", "role"),
    [("ask pi hello", "app"), ("agent", "device"), ("verifier", "verifier"), ("sweep", "sweeper")],
)
def test_identity_of_a_wrong_role_says_so(tmp_path: Path, command: str, role: str) -> None:
    from typer.testing import CliRunner

    from provisioning import fleet
    from provisioning.authority import Subject
    from provisioning.authority_folder import AuthorityFolder
    from provisioning.errors import ProvisioningError
    from provisioning.identity_folder import IdentityFolder
    from provisioning.role import Role
    from sled.cli import app

    ca, now = AuthorityFolder(tmp_path / "ca"), datetime.now(UTC)
    ca.create("fleet", now=now)
    ops = Subject("ops", Role.OPERATOR)
    fleet.give_identity(ca, ca.authority(), ops, IdentityFolder(tmp_path / "ops"), now=now, broker="mqtts://desk")
    result = CliRunner().invoke(app, [*command.split(), "--identity", str(tmp_path / "ops")])
    assert isinstance(result.exception, ProvisioningError)
    assert f"whose role is operator, and this needs the role {role}" in str(result.exception)


def test_agent_without_a_name_says_so() -> None:
    result = sled("agent")
    assert result.returncode == 2
    assert "--identity" in result.stderr
