"""Eclipse Mosquitto as a child process, with a configuration rendered for this system."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import weakref
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from msgspec import Struct

from broker import port as ports
from broker.access_file import read_access
from broker.errors import BrokerStartError
from broker.limits import (
    MAX_BROKER_BYTES,
    MAX_CONNECTIONS,
    MAX_INFLIGHT_MESSAGES,
    MAX_KEEPALIVE_SECONDS,
    MAX_PAYLOAD_BYTES,
    MAX_QUEUED_BYTES,
    MAX_QUEUED_MESSAGES,
    MAX_TOPIC_BYTES,
)
from broker.mosquitto_rules import mosquitto_acl, mosquitto_passwords
from broker.security import Security, place

if TYPE_CHECKING:
    from collections.abc import Callable

    from broker.tls import ServerTls

_START_SECONDS: Final = 10.0
_POLL_SECONDS: Final = 0.02
# Debian keeps daemons out of the PATH of ordinary users.
_SBIN: Final = ("/usr/sbin", "/usr/local/sbin", "/opt/homebrew/sbin")


def find_mosquitto() -> Path | None:
    """Return the path of the installed Mosquitto, if there is one."""
    found = shutil.which("mosquitto") or shutil.which("mosquitto", path=os.pathsep.join(_SBIN))
    return None if found is None else Path(found)


class MosquittoFiles(Struct, frozen=True):
    """Where a Mosquitto finds who may do what.

    Attributes:
        acl: its ACL file; None lets everybody do everything.
        passwords: its password file; None where clients have certificates.
    """

    acl: Path | None = None
    passwords: Path | None = None


def render_config(
    port: int,
    host: str = "127.0.0.1",
    persistence_dir: Path | None = None,
    log_types: tuple[str, ...] = ("error", "warning"),
    *,
    tls: ServerTls | None = None,
    files: MosquittoFiles | None = None,
) -> str:
    """Write the configuration of a broker (mosquitto.conf(5)).

    Args:
        port: where to listen.
        host: the numeric address to listen at.
        persistence_dir: an existing folder for sessions and retained messages; None keeps them in memory only.
        log_types: what goes to standard error.
        tls: how it proves itself, and its clients to it.
        files: who may do what.

    Raises:
        BrokerStartError: the host is beyond loopback, and something is missing for that.
    """
    files = files or MosquittoFiles()
    lines = [
        f"listener {port} {place(host, Security(tls, files.acl))}",
        f"max_connections {MAX_CONNECTIONS}",
        *_access_lines(files),
        *([] if tls is None else _tls_lines(tls)),
        "set_tcp_nodelay true",  # without it each QoS 1 hop waits 40 ms for a delayed ACK
        f"max_inflight_messages {MAX_INFLIGHT_MESSAGES}",
        f"max_queued_messages {MAX_QUEUED_MESSAGES}",
        f"max_queued_bytes {MAX_QUEUED_BYTES}",
        f"memory_limit {MAX_BROKER_BYTES}",
        f"message_size_limit {MAX_PAYLOAD_BYTES}",
        f"max_packet_size {MAX_PAYLOAD_BYTES + MAX_TOPIC_BYTES}",
        f"max_keepalive {MAX_KEEPALIVE_SECONDS}",
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


def _access_lines(files: MosquittoFiles) -> list[str]:
    if files.acl is None:
        return ["allow_anonymous true"]
    lines = ["allow_anonymous false", f"acl_file {files.acl}", "use_username_as_clientid true"]
    return lines if files.passwords is None else [*lines, f"password_file {files.passwords}"]


def _tls_lines(tls: ServerTls) -> list[str]:
    lines = [f"certfile {tls.certificate.resolve()}", f"keyfile {tls.key.resolve()}", "tls_version tlsv1.2"]
    if tls.ca is not None:
        lines += [f"cafile {tls.ca.resolve()}", "require_certificate true", "use_identity_as_username true"]
    if tls.crl is not None:
        lines.append(f"crlfile {tls.crl.resolve()}")
    return lines


class MosquittoProcess:
    """A Mosquitto that ends with this process, unless this process is killed with SIGKILL.

    Args:
        host: an address of this machine: of loopback, unless both TLS and access rules are given.
        port: where to listen; 0 picks a free port.
        state_dir: a folder for its configuration, log, sessions and retained messages, which hold prompts: it is made
            for its owner alone. Without it they are in a temporary folder, and a restart begins empty.
        security: TLS and access rules; without them everybody on this machine may do everything.
        program: the executable; found by itself if left out.

    Raises:
        BrokerStartError: the host is beyond loopback, and something is missing for that.
    """

    name: Final = "mosquitto"

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = 1883,
        *,
        state_dir: Path | None = None,
        security: Security | None = None,
        program: Path | None = None,
    ) -> None:
        self._security = security or Security()
        self.host = place(host, self._security)
        self.port = port
        self._state_dir = state_dir
        self._program = program
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        self._folder: Path | None = None
        self._known: frozenset[str] = frozenset()
        self._process: subprocess.Popen[bytes] | None = None
        self._end: weakref.finalize[[subprocess.Popen[bytes]], MosquittoProcess] | None = None

    @property
    def pid(self) -> int | None:
        """The process id while it runs."""
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Start it and wait until it accepts MQTT connections.

        Raises:
            BrokerStartError: not installed, the port is in use, a file of TLS cannot be used, or it ended or stayed
                silent; says which.
            AccessInvalid: the access file cannot be used.
        """
        if self._security.tls is not None:
            self._security.tls.context()  # says what is wrong with a file better than Mosquitto
        self.port = ports.claim(self.host, self.port)
        folder = self._folder = self._make_folder()
        kept = None if self._temporary else folder
        try:
            files = self._write_rules(folder)
            config = render_config(self.port, self.host, kept, tls=self._security.tls, files=files)
            _write(folder / "mosquitto.conf", config)
            self._launch(folder)
        except BaseException:
            self.stop()
            raise

    def reload(self) -> None:
        """Read the access file again, and have Mosquitto read its rules and the files of TLS again.

        Where somebody is no longer known, Mosquitto is started anew, which takes everybody's connection for about a
        second: told to read again, it would leave open connections open, and give them all rights of the next who is
        registered under that name.

        Raises:
            BrokerStartError, AccessInvalid: a file cannot be used; what was read before stays in force.
        """
        process, known = self._process, self._known
        if process is None:
            return
        if self._security.tls is not None:
            self._security.tls.context()
        assert self._folder is not None
        self._write_rules(self._folder)
        if known <= self._known:
            process.send_signal(signal.SIGHUP)
        else:
            self._run_anew(self._folder)

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

    def _launch(self, folder: Path) -> None:
        """Run it with the files in `folder`, and wait until it listens."""
        log = folder / "mosquitto.log"
        self._process = _run(self._program or find_mosquitto(), folder / "mosquitto.conf", log)
        self._end = weakref.finalize(self, _end, self._process)
        self._wait_ready(self._process, log)

    def _run_anew(self, folder: Path) -> None:
        if self._end is not None:
            self._end()
        self._launch(folder)

    def _make_folder(self) -> Path:
        if self._state_dir is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="sled-mosquitto-")
            return Path(self._temporary.name)
        try:
            self._state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise BrokerStartError(
                f"the folder {self._state_dir} for the broker's state cannot be made ({error.strerror}): give another"
            ) from error
        return self._state_dir.resolve()

    def _write_rules(self, folder: Path) -> MosquittoFiles:
        if self._security.access is None:
            return MosquittoFiles()
        access, tls = read_access(self._security.access), self._security.tls
        acl, passwords = folder / "mosquitto.acl", None
        if tls is None or tls.ca is None:
            passwords = folder / "mosquitto.passwords"
            _write(passwords, mosquitto_passwords(access))
        _write(acl, mosquitto_acl(access))
        self._known = frozenset(identity.name for identity in access.identities)
        return MosquittoFiles(acl, passwords)

    def _wait_ready(self, process: subprocess.Popen[bytes], log: Path) -> None:
        def check() -> None:
            if process.poll() is not None:
                said = " / ".join(log.read_text(errors="replace").strip().splitlines()[-3:])
                raise BrokerStartError(
                    f"Mosquitto ended at once with exit code {process.returncode}: {said or 'it said nothing'}"
                )

        try:
            if self._security == Security():
                ports.await_answer(self.host, self.port, within=_START_SECONDS, check=check)
            else:
                _await_listening(self.host, self.port, check)
        except TimeoutError as error:
            raise BrokerStartError(f"Mosquitto did not start ({error}): see {log}") from error


def _run(program: Path | None, config: Path, log: Path) -> subprocess.Popen[bytes]:
    if program is None:
        raise BrokerStartError(
            "Mosquitto is not installed: install it (Debian: apt install mosquitto) or choose the embedded broker"
        )
    try:
        with log.open("wb") as output:
            return subprocess.Popen(
                [str(program), "-c", str(config)], stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )
    except OSError as error:
        raise BrokerStartError(f"{program} could not be run: {error.strerror}") from error


def _write(path: Path, text: str) -> None:
    """Write a file whole or not at all, for its owner alone: Mosquitto may read it again at any time."""
    fresh = path.with_name(f"{path.name}.new")
    try:
        fresh.unlink(missing_ok=True)
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(text)
        fresh.replace(path)
    except OSError as error:
        raise BrokerStartError(f"{path} could not be written: {error.strerror}") from error


def _await_listening(host: str, port: int, check: Callable[[], object]) -> None:
    """Wait until connections are accepted, which Mosquitto does once it has read all its files.

    Raises:
        TimeoutError: none was in time.
    """
    give_up = time.monotonic() + _START_SECONDS
    reachable = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared, not bound
    while True:
        check()
        with suppress(OSError), socket.create_connection((reachable, port), 1.0):
            return
        if time.monotonic() > give_up:
            raise TimeoutError(f"nothing accepts connections at {host}:{port} within {_START_SECONDS:g} s")
        time.sleep(_POLL_SECONDS)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
