"""How long a message takes through a broker and back, at QoS 1 and at QoS 0, on loopback.

Run as `python -m benchmarks.roundtrip [--count 500] [--json]`. Two bridges, one of which sends back what it gets; the
other sends a payload of 64 bytes, waits for it, and sends the next. Every broker installed here is measured, as
`sled broker` runs it: in a process of its own.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import queue
import statistics
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from broker.address import BrokerAddress
from broker.client import Bridge
from broker.mosquitto import find_mosquitto
from broker.port import await_answer, claim
from sled.processes import Processes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from broker.message import Message
    from broker.run import Engine

_PAYLOAD: Final = bytes(64)
_WARM_UP: Final = 50
_SECONDS: Final = 10.0


@dataclass(frozen=True, slots=True)
class RoundTrip:
    """Round trips through one broker, in milliseconds."""

    broker: str
    count: int
    median_ms: float
    p95_ms: float
    p99_ms: float
    qos0_median_ms: float

    @property
    def ratio(self) -> float:
        """The median at QoS 1 over the median at QoS 0."""
        return self.median_ms / self.qos0_median_ms


def available() -> list[Engine]:
    """Return the brokers installed here."""
    engines: list[Engine] = []
    if find_mosquitto() is not None:
        engines.append("mosquitto")
    if importlib.util.find_spec("amqtt") is not None:
        engines.append("embedded")
    return engines


def measure(engine: Engine, count: int) -> RoundTrip:
    """Time `count` echoes at each QoS through a broker started for this.

    Raises:
        ProcessEndedError: the broker ends at once.
        TimeoutError: it does not answer within 30 s.
        queue.Empty: an echo did not come back within ten seconds.
    """
    with tempfile.TemporaryDirectory() as logs, Processes(Path(logs)) as processes:
        address = BrokerAddress(port=claim("127.0.0.1", 0))
        broker = processes.start("broker", "broker", "--engine", engine, "--port", str(address.port))
        await_answer(address.host, address.port, within=30, check=broker.check)
        qos1, qos0 = (sorted(_echoes(address, qos, count)) for qos in (1, 0))
    percentiles = statistics.quantiles(qos1, n=100, method="inclusive")
    return RoundTrip(engine, count, statistics.median(qos1), percentiles[94], percentiles[98], statistics.median(qos0))


def _echoes(address: BrokerAddress, qos: int, count: int) -> list[float]:
    echoed: queue.SimpleQueue[Message] = queue.SimpleQueue()
    echo, asker = Bridge(address), Bridge(address)
    echo.subscribe("echo/ask", lambda message: echo.publish("echo/answer", message.payload, qos=qos), qos=qos)
    asker.subscribe("echo/answer", echoed.put, qos=qos)
    milliseconds = []
    with echo, asker:
        echo.wait_up(_SECONDS)
        asker.wait_up(_SECONDS)
        for _ in range(_WARM_UP + count):
            begin = time.perf_counter()
            asker.publish("echo/ask", _PAYLOAD, qos=qos)
            echoed.get(timeout=_SECONDS)
            milliseconds.append((time.perf_counter() - begin) * 1e3)
    return milliseconds[_WARM_UP:]


def main(argv: Sequence[str] | None = None) -> int:
    """Measure every broker installed here and print a table, or JSON; returns the exit code."""
    parser = argparse.ArgumentParser(prog="benchmarks.roundtrip", description="Round trips through a local broker.")
    parser.add_argument("--count", type=int, default=500, help="echoes per broker and QoS (default: 500, at least 2)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args(argv)
    if arguments.count < 2:
        parser.error("--count must be at least 2")
    engines = available()
    if not engines:
        sys.stderr.write("no broker is installed: apt install mosquitto, or pip install 'sled-mqtt[broker]'\n")
        return 1
    results = [measure(engine, arguments.count) for engine in engines]
    if arguments.json:
        sys.stdout.write(json.dumps([asdict(result) | {"ratio": result.ratio} for result in results], indent=2) + "\n")
        return 0
    row = "{:<10} {:>10} {:>10} {:>10} {:>12} {:>8}\n"
    sys.stdout.write(f"echo of {len(_PAYLOAD)} bytes at QoS 1 on loopback, {arguments.count} times, in ms\n")
    sys.stdout.write(row.format("broker", "median", "p95", "p99", "QoS 0 median", "ratio"))
    for result in results:
        times = (result.median_ms, result.p95_ms, result.p99_ms, result.qos0_median_ms)
        sys.stdout.write(row.format(result.broker, *(f"{value:.2f}" for value in times), f"{result.ratio:.1f}"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
