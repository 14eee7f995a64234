"""Puts one role together from its options and runs it until it is told to stop."""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import math
import os
import signal
import time
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from msgspec import Struct

from broker.errors import BrokerError, BrokerStartError
from sled.connection import Connection
from sled.notify import CHECKS, Notifier, attended

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from prometheus_client import CollectorRegistry

    from broker.run import Engine as BrokerEngine
    from broker.run import RunningBroker
    from broker.security import Security

_log = logging.getLogger("sled")

_RELOAD_AGAIN: Final = 2.0
"""Seconds after which a broker tries again to read files that it could not read, or write rules that it could not."""


class MetricsError(Exception):
    """The metrics cannot be served; the message says why."""


class Stoppable(Protocol):
    """A role's shell."""

    def run(self) -> None:
        """Serve until `stop`."""
        ...

    def stop(self) -> None:
        """Ask it to end; callable from a signal handler."""
        ...


def release() -> str:
    """Return the installed version."""
    return version("sled-mqtt")


def run_until_signalled(role: Stoppable, drain: Callable[[], None] | None = None, within: float = 0.0) -> None:
    """Run a role; SIGINT and SIGTERM end it in good order. systemd is told how it is.

    Args:
        role: to run.
        drain: is called on the first signal instead, and the role stopped on the second; None stops it on the first.
        within: seconds that draining may take.
    """
    ways = [role.stop] if drain is None else [role.stop, drain]
    notifier = Notifier.from_environment()

    def signalled(*_: object) -> None:
        notifier.stopping(within)
        (ways.pop() if len(ways) > 1 else ways[0])()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signalled)
    with attended(role, notifier):
        role.run()


def run_broker(engine: BrokerEngine, host: str, port: int, state: Path | None, security: Security) -> None:
    """Run a broker on this machine; its files of TLS and access are read again when they were replaced."""
    from broker.port import lives  # noqa: PLC0415 -- other roles have no broker installed
    from broker.run import start_broker  # noqa: PLC0415

    stamp = security.stamp()
    notifier = Notifier.from_environment()
    broker = start_broker(engine, host, port, state_dir=state, security=security)
    stopped = False

    def stop(*_: object) -> None:
        nonlocal stopped
        stopped = True
        notifier.stopping()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    _log.info("%s listens at %s:%d", broker.name, broker.host, broker.port)
    notifier.tell("READY=1", f"STATUS={broker.name} listens at {broker.host}:{broker.port}")
    _warn(broker, security)
    every = (notifier.watchdog or math.inf) / CHECKS
    reload_at = 0.0
    look_at = time.monotonic() + every
    while not stopped:
        if time.monotonic() >= look_at:
            look_at = time.monotonic() + every
            well = lives(broker.host, broker.port, tls=security.tls is not None, timeout=min(every, 5.0))
            notifier.tell("WATCHDOG=1" if well else f"STATUS={broker.name} says nothing to a newcomer")
        if broker.wait(0.5) and not stopped:  # a signal may have been meant for both
            raise BrokerStartError(f"{broker.name} ended by itself: start it again, and see the system's log for why")
        if (now := security.stamp()) != stamp and time.monotonic() >= reload_at:
            if _reload(broker, notifier):
                stamp = now
            else:
                reload_at = time.monotonic() + _RELOAD_AGAIN
    broker.stop()


def _warn(broker: RunningBroker, security: Security) -> None:
    if security.tls is not None and security.tls.ca is not None and security.tls.crl is None:
        _log.warning("without --crl a certificate that was revoked gets in again once its name is given to another")
    if broker.name == "mosquitto" and os.geteuid() == 0 and not ipaddress.ip_address(broker.host).is_loopback:
        _log.warning("Mosquitto keeps the rights of root: run it as another user, or by `sled install broker`")


def _reload(broker: RunningBroker, notifier: Notifier) -> bool:
    """Have it read its files again; False if it cannot, for a reason that may pass (a full disk, a copy half-way)."""
    try:
        broker.reload()
    except BrokerError as error:
        _log.error("%s; what was read before stays in force, and is read again in %g s", error, _RELOAD_AGAIN)
        notifier.tell(f"STATUS={broker.name} cannot read its files again: {error}")
        return False
    _log.info("%s has read its files again", broker.name)
    notifier.tell(f"STATUS={broker.name} listens at {broker.host}:{broker.port}")
    return True


class VerifierSettings(Struct, frozen=True):
    """What `sled verifier` was told."""

    name: str
    connection: Connection
    target: Path
    dtype: str
    device: str
    kv_budget: int
    threads: int | None
    capacity: int
    batching: str
    drain: float
    metrics: str | None


def run_verifier(settings: VerifierSettings) -> None:
    """Load the target and verify until signalled."""
    from transformers.utils import logging as transformers_logging  # noqa: PLC0415 -- a device has no torch

    from verifier.batching import parse_batching  # noqa: PLC0415
    from verifier.engine.load import load_engine  # noqa: PLC0415
    from verifier.numerics import numerics_fingerprint  # noqa: PLC0415
    from verifier.service import Verifier, VerifierOptions  # noqa: PLC0415
    from verifier.tokenizer import target_tokenizer  # noqa: PLC0415

    transformers_logging.disable_progress_bar()
    _log.info("loading the target from %s", settings.target)
    tokenizer = target_tokenizer(settings.target)
    engine = load_engine(
        settings.target,
        dtype=settings.dtype,  # type: ignore[arg-type]
        device=settings.device,
        kv_budget_bytes=settings.kv_budget,
        threads=settings.threads,
    )
    options = VerifierOptions(
        settings.name,
        settings.connection.address,
        tokenizer,
        numerics_fingerprint(settings.target, engine.dtype, engine.device),
        settings.connection.root,
        settings.target.name,
        settings.capacity,
        parse_batching(settings.batching),
        settings.drain,
        tls=settings.connection.tls,
        release=release(),
        client_id=settings.connection.client_id,
    )
    _log.info("target %s is loaded", settings.target.name)
    verifier = Verifier(options, engine)
    with _served(settings.metrics, verifier.metrics.registry):
        run_until_signalled(verifier, verifier.drain if settings.drain else None, settings.drain)


class AgentSettings(Struct, frozen=True):
    """What `sled agent` was told."""

    device: str
    connection: Connection
    drafters: tuple[str, ...]
    tokenizer: Path
    policy: str
    record: Path | None
    target: str
    threads: int
    spool: Path
    max_tokens: int
    max_queue: int
    run: int
    outage: str
    outage_failures: int
    outage_window: float
    metrics: str | None


def run_agent(settings: AgentSettings) -> None:
    """Load the drafter and answer until signalled."""
    from edge_agent.drafters.spec import open_drafter, parse_drafter  # noqa: PLC0415 -- a server has no onnxruntime
    from edge_agent.outage import OutageMode, OutageRules  # noqa: PLC0415
    from edge_agent.policy import parse_policy  # noqa: PLC0415
    from edge_agent.recorder import Recorder  # noqa: PLC0415
    from edge_agent.service import Agent, AgentOptions  # noqa: PLC0415
    from edge_agent.spool import Spool  # noqa: PLC0415
    from edge_agent.tokenizer import ChatTokenizer  # noqa: PLC0415

    policy = parse_policy(settings.policy)
    if settings.record is not None:
        policy = Recorder(policy, settings.record)
    specs = [parse_drafter(text) for text in settings.drafters]
    _log.info("loading the drafter: %s", ", else ".join(str(spec) for spec in specs))
    tokenizer = ChatTokenizer.load(settings.tokenizer)
    drafter = open_drafter(
        specs,
        threads=settings.threads,
        vocab_limit=tokenizer.vocab_size,
        tokenizer=tokenizer.canonical_json,
        target=settings.tokenizer,
    )
    options = AgentOptions(
        settings.device,
        settings.connection.address,
        settings.connection.root,
        settings.target,
        settings.max_tokens,
        settings.max_queue,
        settings.run,
        OutageRules(OutageMode(settings.outage), settings.outage_failures, settings.outage_window),
        tls=settings.connection.tls,
        release=release(),
        client_id=settings.connection.client_id,
    )
    spool = Spool(settings.spool)
    _log.info("drafter %s is loaded", drafter.name)
    agent = Agent(options, drafter, tokenizer, policy, spool)
    with _served(settings.metrics, agent.metrics.registry):
        run_until_signalled(agent)


@contextlib.contextmanager
def _served(where: str | None, registry: CollectorRegistry) -> Iterator[None]:
    """Serve a role's metrics at HOST:PORT while it runs; None serves nothing.

    Raises:
        MetricsError: the place is not free, or is no place.
    """
    from prometheus_client import start_http_server  # noqa: PLC0415

    if where is None:
        yield
        return
    host, _, port = where.rpartition(":")
    try:
        server, thread = start_http_server(int(port), host.strip("[]") or "127.0.0.1", registry)
    except (OSError, ValueError, OverflowError) as error:
        raise MetricsError(
            f"metrics cannot be served at {where!r} ({error}): give --metrics a free HOST:PORT, as in 127.0.0.1:9464"
        ) from error
    _log.info("metrics are at http://%s/metrics", where)
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)
