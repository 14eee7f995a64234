"""A broker, a verifier and some devices as processes on this machine: what demos and benchmarks run against."""

from __future__ import annotations

import contextlib
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from msgspec import Struct

from broker.address import BrokerAddress
from broker.port import await_answer, claim
from broker.run import Engine as BrokerEngine
from sled.processes import Processes
from sled.scrape import Samples, scrape

if TYPE_CHECKING:
    from types import TracebackType

    from sled.client import Client

START_WITHIN: Final = 300.0
"""Seconds that loading models may take."""

_BROKER_STARTS_WITHIN: Final = 30.0


class FleetError(Exception):
    """The fleet cannot be started; the message says why."""


class Device(Struct, frozen=True):
    """One device of a fleet.

    Attributes:
        name: its id.
        drafters: what it drafts with, in order of preference, as for `sled agent --drafter`.
        policy: when it stops drafting.
        record: file to which it adds what became of its drafts, as for `sled agent --record`; None for none.
        broker: its own way to the broker, as for `sled agent --broker`; empty for the straight one.
        threads: CPU threads for drafting.
    """

    name: str
    drafters: tuple[str, ...]
    policy: str = "cost-aware"
    record: Path | None = None
    broker: str = ""
    threads: int = 1


class FleetOptions(Struct, frozen=True):
    """What a fleet is made of.

    Attributes:
        target: folder of the target model.
        devices: at least one.
        dtype: what the target computes in.
        broker: which broker; auto takes Mosquitto where it is installed.
        batching: the verifier's batch policy, as for `sled verifier --batching`.
        logs: folder for the logs of the processes; None for one that is removed at the end.
        threads: CPU threads of the target; None leaves the verifier's own choice.
        device: where the target computes, as for `sled verifier --device`.
    """

    target: Path
    devices: tuple[Device, ...]
    dtype: str = "float32"
    broker: BrokerEngine = "auto"
    batching: str = "continuous"
    logs: Path | None = None
    threads: int | None = None
    device: str = "auto"


class Fleet:
    """Starts everything on entering, which returns before models are loaded, and ends everything on leaving.

    Attributes:
        address: of the broker.
        engine: which broker runs.

    Raises:
        FleetError: on entering: the folder for logs cannot be made, or the broker does not start.
        ProcessEndedError: on entering: a process ended; the message shows the end of its log.
    """

    def __init__(self, options: FleetOptions) -> None:
        self._options = options
        self._stack = contextlib.ExitStack()
        self.engine = _resolve(options.broker)
        self.address = BrokerAddress("127.0.0.1", claim("127.0.0.1", 0))
        self._metrics_port = claim("127.0.0.1", 0)
        self._device_metrics = {device.name: claim("127.0.0.1", 0) for device in options.devices}

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sled-")))
            logs = self._options.logs or scratch
            try:
                logs.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise FleetError(
                    f"the folder for logs {logs} cannot be made ({error.strerror}): give another"
                ) from error
            self._processes = stack.enter_context(Processes(logs))
            self._start(scratch)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def _start(self, scratch: Path) -> None:
        options, port = self._options, self.address.port
        self._processes.start("broker", "broker", "--port", str(port), "--engine", self.engine)
        try:
            await_answer("127.0.0.1", port, within=_BROKER_STARTS_WITHIN, check=self.check)
        except TimeoutError as error:
            raise FleetError(f"the broker did not start ({error}): see its log with --logs DIR") from error
        metrics = ("--metrics", f"127.0.0.1:{self._metrics_port}")
        self._processes.start("verifier", *verifier_words("verifier", options, self.address), *metrics)
        for device in options.devices:
            words = agent_words(device, options.target, self.address, scratch / f"{device.name}.db")
            metrics = ("--metrics", f"127.0.0.1:{self._device_metrics[device.name]}")
            self._processes.start(device.name, *words, *metrics)

    def check(self) -> None:
        """Raise ProcessEndedError if any process has ended."""
        self._processes.check()

    def wait(self, client: Client) -> None:
        """Wait until the verifier and all devices have announced themselves.

        Raises:
            FleetError: they have not within `START_WITHIN` seconds.
            ProcessEndedError: one has ended.
        """
        give_up = time.monotonic() + START_WITHIN
        while not client.wait_online(devices=len(self._options.devices), timeout=0.5):
            self.check()
            if time.monotonic() > give_up:
                raise FleetError(
                    f"verifier and devices were not ready within {START_WITHIN:.0f} s: see their logs with --logs DIR"
                )

    def verifier_metrics(self) -> Samples:
        """Return what the verifier counts now, by metric name."""
        return scrape(f"http://127.0.0.1:{self._metrics_port}/metrics")

    def device_metrics(self, name: str) -> Samples:
        """Return what a device counts now, by metric name."""
        return scrape(f"http://127.0.0.1:{self._device_metrics[name]}/metrics")


def verifier_words(name: str, options: FleetOptions, address: BrokerAddress) -> list[str]:
    """Return what follows `sled` to run a verifier of a fleet."""
    threads = () if options.threads is None else ("--threads", str(options.threads))
    return [
        "verifier", name, "--broker", str(address), "--target", str(options.target),
        "--dtype", options.dtype, "--device", options.device, "--batching", options.batching, *threads,
    ]  # fmt: skip


def agent_words(device: Device, target: Path, address: BrokerAddress, spool: Path) -> list[str]:
    """Return what follows `sled` to run a device of a fleet, its requests kept in the file `spool`."""
    drafters = [word for drafter in device.drafters for word in ("--drafter", drafter)]
    record = ("--record", str(device.record)) if device.record else ()
    return [
        "agent", device.name, "--broker", device.broker or str(address), *drafters, *record,
        "--policy", device.policy, "--threads", str(device.threads), "--tokenizer", str(target),
        "--spool", str(spool),
    ]  # fmt: skip


def _resolve(engine: BrokerEngine) -> BrokerEngine:
    from broker.mosquitto import find_mosquitto  # noqa: PLC0415

    if engine != "auto":
        return engine
    return "mosquitto" if find_mosquitto() else "embedded"
