"""Configuration files: what is wrong is said with file, line and key."""

from __future__ import annotations

import contextlib
import inspect
from typing import TYPE_CHECKING

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sled import cli
from sled.config import MOST_BYTES, MOST_NODES, ROLES, ConfigError, parse, read

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from sled.run import AgentSettings

COMMANDS: dict[str, Callable[..., None]] = {
    "agent": cli.run_agent,
    "verifier": cli.run_verifier,
    "broker": cli.run_broker,
}


def wrong(text: str | bytes, role: str = "agent") -> str:
    """Return what is said about a file."""
    with pytest.raises(ConfigError) as caught:
        parse(text if isinstance(text, bytes) else text.encode(), f"{role}.yaml", role)
    return str(caught.value)


@pytest.mark.parametrize("role", ROLES)
def test_every_option_is_a_key(role: str) -> None:
    parameters = set(inspect.signature(COMMANDS[role]).parameters) - {"config"}
    assert set(ROLES[role].__struct_fields__) == parameters


@pytest.mark.parametrize("role", ROLES)
def test_every_key_is_the_option_s_name(role: str) -> None:
    import typer

    group = typer.main.get_group(cli.app)
    options = {option for one in group.commands[role].params for option in one.opts if option.startswith("--")}
    keys = {field.encode_name for field in msgspec.structs.fields(ROLES[role])} - {"name"}
    arguments = {"device"} if role == "agent" else set()
    assert {f"--{key}" for key in keys - arguments} == options - {"--config", "--help"}


def test_what_it_says() -> None:
    text = b"""
# of the kitchen
broker: mqtts://desk.example
drafter:
  - lookup
  - onnx:/srv/drafter
max-tokens: 100
outage-window: 30
"""
    assert parse(text, "agent.yaml", "agent") == {
        "broker": "mqtts://desk.example",
        "drafter": ["lookup", "onnx:/srv/drafter"],
        "max_tokens": 100,
        "outage_window": 30,
    }
    assert parse(b"# nothing\n", "agent.yaml", "agent") == {}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("\nmax-tokens: many", "agent.yaml:2: max-tokens: must be a whole number, and not 'many'"),
        ("max-tokens: 0", "agent.yaml:1: max-tokens: must be a whole number >= 1, and not 0"),
        ("max-tokens: true", "must be a whole number, and not True"),
        ("max-tokens: 1.5", "must be a whole number, and not 1.5"),
        ("max_token: 3", "agent.yaml:1: max_token: is no key of agent.yaml: did you mean 'max-tokens'?"),
        ("Broker: desk", "did you mean 'broker'?"),
        ("nonsense: 3", "agent.yaml:1: nonsense: is no key of agent.yaml: there are broker, "),
        ("run: 1\n\nrun: 2", "agent.yaml:3: run: is there twice, first in line 1"),
        ("outage: wait", "agent.yaml:1: outage: must be one of stall, release, revise, and not 'wait'"),
        ("drafter:\n- lookup\n- 3", "agent.yaml:3: drafter: must be a text, and not 3 (put it in quotes)"),
        ("drafter:\n- lookup\n- nothing:such", "agent.yaml:3: drafter: The drafter 'nothing:such' is not known"),
        ("drafter: []", "agent.yaml:1: drafter: must be a list of one or more, and not []"),
        ("tokenizer: models/tokenizer", "agent.yaml:1: tokenizer: must be an absolute path"),
        ("device: Pi+", "agent.yaml:1: device: 'Pi+' is no valid device id"),
        ("device: on", "must be a text, and not True (put it in quotes)"),
        ("device:", "agent.yaml:1: device: has no value"),
        ("policy: often", "agent.yaml:1: policy: The draft policy 'often' is not known"),
        ("broker: http://desk", "agent.yaml:1: broker: 'http://desk' is not a broker address"),
        ("root: a/#", "agent.yaml:1: root: "),
        ("- 1", "agent.yaml:1: the file must hold keys with values"),
        ("? [a]\n: 1", "agent.yaml:1: a key must be a word"),
        ("run: 1\n  broker: x", "agent.yaml:2: this is not YAML"),
        ("---\nrun: 1\n---\nrun: 2", "agent.yaml:3: a second document begins"),
        ("device: !!python/object/apply:os.system [x]", "agent.yaml:1: the tag "),
        ("run: &a 1", "agent.yaml:1: anchors and aliases"),
        ("run: 1\ndevice: *a", "agent.yaml:2: anchors and aliases"),
        ("run: " + "9" * 5_000, "this value cannot be read"),
        ("device: " + "[" * 5_000, "agent.yaml:1: values are nested too deeply"),
        ("drafter: [" + "a," * MOST_NODES + "]", "this cannot be a configuration"),
        ("#" * (MOST_BYTES + 1), "it cannot be a configuration"),
    ],
)  # fmt: skip
def test_wrong(text: str, said: str) -> None:
    assert said in wrong(text)


@pytest.mark.parametrize(
    ("role", "text", "said"),
    [
        ("verifier", "batching: often", "verifier.yaml:1: batching: "),
        ("verifier", "kv-budget: 0", "must be a number >= 0.01, and not 0"),
        ("verifier", "name: V", "verifier.yaml:1: name: 'V' is no valid"),
        ("broker", "port: 70000", "broker.yaml:1: port: must be a whole number <= 65535"),
        ("broker", "engine: emqx", "must be one of auto, mosquitto, embedded, and not 'emqx'"),
    ],
)
def test_wrong_for_others(role: str, text: str, said: str) -> None:
    assert said in wrong(text, role)


def test_a_bomb() -> None:
    """Nine levels of nine references mean 387 million values; not one of them is made."""
    lines = [
        'a: &a ["x"]',
        *(f"{b}: &{b} [{','.join([f'*{a}'] * 9)}]" for a, b in zip("abcdefgh", "bcdefghi", strict=True)),
    ]
    assert "agent.yaml:1: anchors and aliases" in wrong("\n".join(lines))


@given(st.one_of(st.binary(max_size=200), st.text(max_size=200).map(lambda text: text.encode("utf-8", "replace"))))
def test_any_bytes(text: bytes) -> None:
    """Whatever is in the file, it is a configuration or a sentence."""
    with contextlib.suppress(ConfigError):
        parse(text, "agent.yaml", "agent")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml cannot be read \(No such file"):
        read(tmp_path / "none.yaml", "agent")


def test_the_command_line_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sled.run

    seen: list[AgentSettings] = []
    monkeypatch.setattr(sled.run, "run_agent", seen.append)
    monkeypatch.setenv("SLED_ROOT", "of/the/environment")
    config = tmp_path / "agent.yaml"
    config.write_text(
        f"device: pi\nbroker: desk:1\nroot: file\nmax-tokens: 9\nmax-queue: 3\nrun: 2\ndrafter: lookup\n"
        f"tokenizer: {tmp_path}\nspool: {tmp_path}/x.db\noutage: revise\noutage-window: 5\n"
    )
    cli.app(["agent", "--config", str(config), "--max-queue", "7"], standalone_mode=False)
    (settings,) = seen
    assert (settings.device, settings.max_tokens, settings.max_queue, settings.run) == ("pi", 9, 7, 2)
    assert (settings.drafters, settings.outage, settings.outage_window) == (("lookup",), "revise", 5.0)
    assert (str(settings.connection.address[0]), settings.connection.root) == ("desk:1", "of/the/environment")  # type: ignore[index]
    assert (settings.tokenizer, settings.spool) == (tmp_path, tmp_path / "x.db")
