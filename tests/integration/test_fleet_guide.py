"""docs/fleet.md, as it stands: from nothing to a fleet, and a machine that is stolen."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

from broker.port import claim
from provisioning.identity_folder import IdentityFolder
from provisioning.role import Role
from schemas.messages import Ask
from sled.client import Client, NoAnswerError
from sled.connection import identified
from tests.conftest import require
from tests.integration.guide import Machines, read_guide
from tests.sled.entry import lets_in
from tests.waiting import wait_for

GUIDE: Final = Path(__file__).parents[2] / "docs" / "fleet.md"
PATIENCE: Final = 60.0
QUESTION: Final = Ask(prompt="Are you still there?", max_tokens=4)


def test_the_guide(tmp_path: Path, tiny_target: Path, tiny_drafter: Path) -> None:
    require("mosquitto")
    port = claim("127.0.0.1", 0)
    changed = {
        "--host 0.0.0.0": f"--host 127.0.0.1 --port {port}",
        "mqtts://desk.example": f"mqtts://127.0.0.1:{port}",
        "desk.example": "127.0.0.1",
        "sled verifier": f"sled verifier --target {tiny_target} --dtype float32 --threads 1",
        "sled agent": f"sled agent --drafter {tiny_drafter} --max-tokens 24",
    }
    commands = read_guide(GUIDE)
    revoked = next(number for number, command in enumerate(commands) if "revoke" in command.line)
    asked = [number for number, command in enumerate(commands) if command.line.startswith("sled ask")]
    assert asked[0] < revoked < asked[1]
    with Machines(tmp_path, changed) as machines:
        printed = [machines.run(command) for command in commands[:revoked]]
        assert printed[asked[0]].strip()
        machines.check()
        thief = identified(IdentityFolder(machines.home("pi-2") / ".local/state/sled/identity"), Role.DEVICE)
        other = identified(IdentityFolder(machines.home("pi-1") / ".local/state/sled/identity"), Role.DEVICE)
        app = identified(IdentityFolder(machines.home("phone") / ".local/state/sled/identity"), Role.APP)
        with Client(app.address, root=app.root, client_id=app.client_id, tls=app.tls) as client:
            assert client.wait_online(devices=2, timeout=PATIENCE), "both devices are there before one is stolen"
            assert list(client.ask("pi-2", QUESTION, timeout=PATIENCE))

        machines.run(commands[revoked])
        assert machines.run(commands[asked[1]]).strip()
        machines.check()
        with (
            Client(app.address, root=app.root, client_id=app.client_id, tls=app.tls) as client,
            pytest.raises(NoAnswerError),
        ):
            list(client.ask("pi-2", QUESTION, timeout=5))
        wait_for(lambda: not lets_in(thief))
        assert lets_in(other)
