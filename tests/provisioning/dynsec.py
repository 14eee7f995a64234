"""A Mosquitto with its dynamic security plugin."""

from __future__ import annotations

import os
import subprocess
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from msgspec import Struct

from broker.mosquitto import find_mosquitto
from broker.port import claim
from tests.broker.raw import RawClient

if TYPE_CHECKING:
    from collections.abc import Iterator


class At(Struct, frozen=True):
    """Where it listens."""

    host: str
    port: int


@contextmanager
def dynsec_mosquitto(folder: Path, rules: str) -> Iterator[At]:
    """Run one by a plugin's file; skips the test where there is no plugin."""
    program = find_mosquitto()
    plugins = sorted(Path("/usr").glob("l*/*/mosquitto_dynamic_security.so"))
    if program is None or not plugins:
        pytest.skip("Mosquitto's dynamic security plugin is not installed")
    at = At("127.0.0.1", claim("127.0.0.1", 0))
    (folder / "dynamic-security.json").write_text(rules)
    config = folder / "mosquitto.conf"
    lines = [
        f"listener {at.port} {at.host}",
        "allow_anonymous false",
        "use_username_as_clientid true",
        f"plugin {plugins[0]}",
        f"plugin_opt_config_file {folder / 'dynamic-security.json'}",
        "max_inflight_messages 1000",
        *(["user root"] if os.geteuid() == 0 else []),
    ]
    config.write_text("\n".join(lines) + "\n")
    process = subprocess.Popen([str(program), "-c", str(config)], stderr=subprocess.DEVNULL)
    try:
        _await(at, process)
        yield at
    finally:
        process.kill()
        process.wait()


def _await(at: At, process: subprocess.Popen[bytes]) -> None:
    give_up = time.monotonic() + 10
    while time.monotonic() < give_up:
        assert process.poll() is None
        with suppress(OSError), RawClient(at):
            return
        time.sleep(0.02)
    raise TimeoutError
