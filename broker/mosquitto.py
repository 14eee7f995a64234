"""Eclipse Mosquitto as a child process, with a configuration rendered for this system."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import weakref
from pathlib import Path
from typing import Final, Self

from broker import port as ports
from broker.errors import BrokerStartError
from broker.limits import MAX_INFLIGHT_MESSAGES, MAX_PAYLOAD_BYTES, MAX_QUEUED_MESSAGES

_START_SECONDS: Final = 10.0
# Debian keeps daemons out of the PATH of ordinary users.
_SBIN: Final = ("/usr/sbin", "/usr/local/sbin", "/opt/homebrew/sbin")


def find_mosquitto() -> Path | None:
    """Return the path of the installed Mosquitto, if there is one."""
    found = shutil.which("mosquitto") or shutil.which("mosquitto", path=os.pathsep.join(_SBIN))
    return None if found is None else Path(found)


def render_config(
    port: int,
    host: str = "127.0.0.1",
    persistence_dir: Path | None = None,
    log_types: tuple[str, ...] = ("error", "warning"),
) -> str:
    """Write the configuration of a broker for this machine alone (mosquitto.conf(5)).

    Args:
        port: where to listen.
        host: a loopback address.
        persistence_dir: an existing folder for sessions and retained messages; None keeps them in memory only.
        log_types: what goes to standard error.

    Raises:
        BrokerStartError: the host is beyond loopback.
    """
    lines = [
        f"listener {port} {ports.loopback(host)}",
        "allow_anonymous true",
        "set_tcp_nodelay true",  # without it each QoS 1 hop waits 40 ms for a delayed ACK
        f"max_inflight_messages {MAX_INFLIGHT_MESSAGES}",
        f"max_queued_messages {MAX_QUEUED_MESSAGES}",
        f"message_size_limit {MAX_PAYLOAD_BYTES}",
        f"max_packet_size {MAX_PAYLOAD_BYTES + 66_000}",  # and the longest topic with its headers
        "log_dest stderr",
        *(f"log_type {log_type}" for log_type in log_types),
        "connection_messages false",
    ]
    if persistence_dir is None:
        lines.append("persistence false")
    else:
        lines += ["persistence true", f"persistence_location {persistence_dir}/", "autosave_interval 60"]
    if os.geteuid() == 0:
        # Started by root Mosquitto becomes the user `mosquitto`, who cannot enter our folders.
        lines.append("user root")
    return "\n".join(lines) + "\n"


class MosquittoProcess:
    """A Mosquitto that ends with this process, unless this process is killed with SIGKILL.

    Args:
        host: a loopback address.
        port: where to listen; 0 picks a free port.
        state_dir: a folder for its configuration, log, sessions and retained messages. Without it they are in a
            temporary folder, and a restart begins empty.
        program: the executable; found by itself if left out.
    """

    name: Final = "mosquitto"

    def __init__(
        self, host: str = "127.0.0.1", port: int = 1883, *, state_dir: Path | None = None, program: Path | None = None
    ) -> None:
        self.host = ports.loopback(host)
        self.port = port
        self._state_dir = state_dir
        self._program = program
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._end: weakref.finalize[[subprocess.Popen[bytes]], MosquittoProcess] | None = None

    @property
    def pid(self) -> int | None:
        """The process id while it runs."""
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Start it and wait until it accepts MQTT connections.

        Raises:
            BrokerStartError: not installed, the port is in use, or it ended or stayed silent; says which.
        """
        program = self._program or find_mosquitto()
        if program is None:
            raise BrokerStartError(
                "Mosquitto is not installed: install it (Debian: apt install mosquitto) or choose the embedded broker"
            )
        self.port = ports.claim(self.host, self.port)
        folder = self._folder()
        config, log = folder / "mosquitto.conf", folder / "mosquitto.log"
        config.write_text(render_config(self.port, self.host, None if self._temporary else folder))
        try:
            with log.open("wb") as output:
                self._process = subprocess.Popen(
                    [str(program), "-c", str(config)], stdin=subprocess.DEVNULL, stdout=output, stderr=output
                )
        except OSError as error:
            self.stop()
            raise BrokerStartError(f"{program} could not be run: {error.strerror}") from error
        self._end = weakref.finalize(self, _end, self._process)
        try:
            self._wait_ready(self._process, log)
        except BaseException:
            self.stop()
            raise

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it has ended, at most `timeout` seconds; False if it still runs."""
        if self._process is None:
            return True
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            return False
        return True

    def stop(self) -> None:
        """End it: SIGTERM, and SIGKILL after five seconds. Does nothing if it does not run."""
        if self._end is not None:
            self._end()
        self._process = self._end = None
        if self._temporary is not None:
            self._temporary.cleanup()
            self._temporary = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _folder(self) -> Path:
        if self._state_dir is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="sled-mosquitto-")
            return Path(self._temporary.name)
        try:
            self._state_dir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise BrokerStartError(
                f"the folder {self._state_dir} for the broker's state cannot be made ({error.strerror}): give another"
            ) from error
        return self._state_dir.resolve()

    def _wait_ready(self, process: subprocess.Popen[bytes], log: Path) -> None:
        def check() -> None:
            if process.poll() is not None:
                said = " / ".join(log.read_text(errors="replace").strip().splitlines()[-3:])
                raise BrokerStartError(
                    f"Mosquitto ended at once with exit code {process.returncode}: {said or 'it said nothing'}"
                )

        try:
            ports.await_answer(self.host, self.port, within=_START_SECONDS, check=check)
        except TimeoutError as error:
            raise BrokerStartError(f"Mosquitto did not start ({error}): see {log}") from error


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
