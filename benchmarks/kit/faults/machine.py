"""Every role as a process of its own that can be killed, frozen and started again, each device behind its own link."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

import psutil

from benchmarks.kit.error import BenchError
from benchmarks.kit.faults.logs import Done, JsonLines, Sampled
from benchmarks.kit.flags import cores
from benchmarks.kit.link import Link
from broker.address import BrokerAddress
from broker.mosquitto import find_mosquitto, render_config
from broker.port import await_answer, claim
from sled.client import Client
from sled.fleet import START_WITHIN, Device, FleetOptions, agent_words, verifier_words
from sled.processes import Process

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Literal

    from benchmarks.kit.faults.logs import Run
    from benchmarks.kit.faults.plan import Role

BROKER: Final = "broker"
_START_WITHIN: Final = 15.0
"""Seconds in which a broker accepts connections."""


class Mosquitto(Process):
    """Mosquitto itself, with nothing between: a signal for it must not end at somebody who merely runs it."""

    def __init__(self, program: Path, config: Path, log: Path) -> None:
        self.name = BROKER
        self.log = log
        with log.open("ab") as output:
            self._popen = subprocess.Popen(
                [str(program), "-c", str(config)], stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )


@dataclass
class _Member:
    """A role of the machine: how it is started, and the process if it runs."""

    role: Role
    start: Callable[[], Process]
    log: JsonLines
    process: Process | None = None
    frozen: bool = False


class Machine:
    """Starts all on entering and ends all on leaving. What is done to a process or a link is in its log.

    Attributes:
        address: of the broker, for those who go there straight.
        links: by device.

    Raises:
        BenchError: on entering: Mosquitto is not installed or does not start.
        ProcessEndedError: on entering, and from `check`: a process ended by itself.
    """

    def __init__(self, run: Run, folder: Path) -> None:
        self._run = run
        self._folder = folder.resolve()
        self._stack = contextlib.ExitStack()
        self._members: dict[str, _Member] = {}
        self.address = BrokerAddress("127.0.0.1", claim("127.0.0.1", 0))
        self.links: dict[str, Link] = {}

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            self._set_up_broker(stack)
            self._set_up_roles(stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    # Setting up -------------------------------------------------------------------------------------------------------

    def _set_up_broker(self, stack: contextlib.ExitStack) -> None:
        program = find_mosquitto()
        if program is None:
            raise BenchError("faults are tried with Mosquitto, which is not installed (Debian: apt install mosquitto)")
        state = self._folder / "mosquitto" if self._run.plan.persistence else None
        if state is not None:
            state.mkdir(exist_ok=True)
        config = self._folder / "mosquitto.conf"
        config.write_text(render_config(self.address.port, persistence_dir=state))
        self._add(stack, BROKER, "broker", partial(Mosquitto, program, config, self._folder / "broker.log"))
        self.start(BROKER)
        try:
            await_answer(self.address.host, self.address.port, within=_START_WITHIN, check=self.check)
        except TimeoutError as error:
            raise BenchError(f"the broker did not start ({error}): see {self._folder}/broker.log") from error

    def _set_up_roles(self, stack: contextlib.ExitStack) -> None:
        plan, target = self._run.plan, Path(self._run.target)
        options = FleetOptions(target, (), threads=max(1, cores() // plan.verifiers), device="cpu")
        for name in plan.verifier_names:
            words = [*verifier_words(name, options, self.address), "--capacity", str(plan.capacity)]
            self._add(stack, name, "verifier", partial(Process, name, words, self._folder))
            self.start(name)
        for number, name in enumerate(plan.device_names):
            log = stack.enter_context(JsonLines(self._folder / f"link-{name}.jsonl"))
            link = Link(self.address, seed=plan.seed * plan.devices + number, tell=log.add)
            self.links[name] = stack.enter_context(link)
            device = Device(name, self._run.drafters, broker=str(link.address))
            words = [
                *agent_words(device, target, self.address, self._folder / f"{name}.db"), "--outage", plan.outage,
            ]  # fmt: skip
            self._add(stack, name, "agent", partial(Process, name, words, self._folder))
            self.start(name)

    def _add(self, stack: contextlib.ExitStack, name: str, role: Role, start: Callable[[], Process]) -> None:
        log = stack.enter_context(JsonLines(self._folder / f"process-{name}.jsonl"))
        self._members[name] = _Member(role, start, log)
        stack.callback(self._end, name)

    def wait(self) -> None:
        """Wait until all devices and verifiers have announced themselves.

        Raises:
            BenchError: they have not in time.
            ProcessEndedError: one has ended.
        """
        plan, give_up = self._run.plan, time.monotonic() + START_WITHIN
        with Client(self.address) as client:
            while not client.wait_online(devices=plan.devices, verifiers=plan.verifiers, timeout=0.5):
                self.check()
                if time.monotonic() > give_up:
                    raise BenchError(
                        f"devices and verifiers were not ready within {START_WITHIN:.0f} s: see their logs in "
                        f"{self._folder}"
                    )

    # What is done to processes ----------------------------------------------------------------------------------------

    def runs(self, name: str) -> bool:
        """Whether a process is there and not frozen."""
        member = self._members[name]
        return member.process is not None and not member.frozen

    def start(self, name: str) -> None:
        """Start a process that is not there."""
        member = self._members[name]
        member.process = member.start()
        self._note(name, member.process.pid, "started")

    def kill(self, name: str) -> None:
        """End a process at once, as a power cut would."""
        process = self._process(name)
        at = time.monotonic()
        process.kill()
        self._members[name].process = None
        self._note(name, process.pid, "killed", at)

    def freeze(self, name: str) -> None:
        """Make a process stand still."""
        process = self._process(name)
        os.kill(process.pid, signal.SIGSTOP)
        self._members[name].frozen = True
        self._note(name, process.pid, "frozen")

    def thaw(self, name: str) -> None:
        """Let it go on."""
        process = self._process(name)
        os.kill(process.pid, signal.SIGCONT)
        self._members[name].frozen = False
        self._note(name, process.pid, "thawed")

    def check(self) -> None:
        """Raise ProcessEndedError if a process has ended that was not killed."""
        for member in self._members.values():
            if member.process is not None:
                member.process.check()

    def sample(self) -> None:
        """Write down what every process takes of the machine."""
        for name, member in self._members.items():
            if member.process is None:
                continue
            try:
                seen = psutil.Process(member.process.pid)
                rss, files = seen.memory_info().rss, seen.num_fds()
            except psutil.Error:  # it ended just now: `check` tells
                continue
            member.log.add(Sampled(time.monotonic(), member.role, name, member.process.pid, rss, files))

    def _process(self, name: str) -> Process:
        process = self._members[name].process
        assert process is not None, "only what is there is struck"
        return process

    def _note(
        self,
        name: str,
        pid: int,
        what: Literal["started", "killed", "frozen", "thawed", "ended"],
        at: float | None = None,
    ) -> None:
        member = self._members[name]
        member.log.add(Done(time.monotonic() if at is None else at, member.role, name, pid, what))

    def _end(self, name: str) -> None:
        """Kill what is left: everything has been answered, or will not be, and a good end of many takes long."""
        member = self._members[name]
        if member.process is not None:
            member.process.kill()
            self._note(name, member.process.pid, "ended")
            member.process = None
