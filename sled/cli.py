"""The `sled` command. Every command imports its role when it is called, so that a device needs no torch."""

from __future__ import annotations

import importlib
import logging
import os
import shlex
import signal
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn, TypeVar

import platformdirs
import typer
from rich.console import Console

from sled import doctor, errors, install, provision
from sled.processes import end_with_parent
from sled.spin import spin_briefly

if TYPE_CHECKING:
    from collections.abc import Callable

    from provisioning.role import Role
    from sled.connection import Connection

T = TypeVar("T")
R = TypeVar("R")

app = typer.Typer(
    name="sled",
    help="Speculative LLM decoding over MQTT: devices draft, one target verifies, the text is exactly the target's.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    add_completion=False,
)
model = typer.Typer(help="Get target models and make drafters of them.", no_args_is_help=True)
draft = typer.Typer(help="Make draft models that fit a target.", no_args_is_help=True)
bench = typer.Typer(help="Measure, in one run, and print ratios.", no_args_is_help=True)
app.add_typer(model, name="model")
app.add_typer(draft, name="draft")
app.add_typer(bench, name="bench")
provision.mount(app)
install.mount(app)
doctor.mount(app)


class DType(StrEnum):
    """What the target computes in."""

    AUTO = "auto"
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"


class Outage(StrEnum):
    """What a device does when the verifier does not answer."""

    STALL = "stall"
    RELEASE = "release"
    REVISE = "revise"


class BrokerEngine(StrEnum):
    """Which broker to run."""

    AUTO = "auto"
    MOSQUITTO = "mosquitto"
    EMBEDDED = "embedded"


class Precision(StrEnum):
    """How a drafter's weights are stored."""

    INT8 = "int8"
    INT4 = "int4"
    FP32 = "fp32"


Broker = Annotated[
    str | None,
    typer.Option(
        "--broker",
        envvar="SLED_BROKER",
        help="Where the broker is: host, host:port or mqtt://user:password@host:port; mqtts for TLS, mqtt5 or mqtt5s "
        "for MQTT 5. Several with commas between them: the next is used while those before it are away.",
        show_default="what the identity says, else 127.0.0.1:1883",
    ),
]
Root = Annotated[
    str | None,
    typer.Option(
        "--root",
        envvar="SLED_ROOT",
        help="Root of all topics.",
        show_default="what the identity says, else sled/v1",
    ),
]
IdentityFolder = Annotated[
    Path | None,
    typer.Option(
        "--identity",
        envvar="SLED_IDENTITY",
        help="Folder of this machine's identity, as `sled enroll` makes it: connect with its certificate, over TLS.",
    ),
]
TargetName = Annotated[
    str | None,
    typer.Option(
        "--target", help="Target model: a local folder, a hub id (org/name), or nothing for SmolLM2-135M-Instruct."
    ),
]
Drafters = Annotated[
    list[str] | None,
    typer.Option(
        "--drafter",
        help="FOLDER or onnx:FOLDER, transformers:FOLDER, cross: before these for another tokenizer, lookup, or "
        "lookup+FOLDER; by default lookup+ the drafter that comes with sled, where that fits, else the int8 export of "
        "the default target. Given again, the next one takes over when the one before fails or is too slow.",
    ),
]
PolicyText = Annotated[
    str,
    typer.Option(
        "--policy",
        help="When to stop drafting: cost-aware[:LONGEST], fixed:LENGTH, confidence:THRESHOLD[:LONGEST], "
        "entropy:NATS[:LONGEST] or margin:THRESHOLD[:LONGEST].",
    ),
]
MetricsPlace = Annotated[
    str | None,
    typer.Option("--metrics", metavar="HOST:PORT", help="Serve Prometheus metrics there; by default nowhere."),
]
Temperature = Annotated[float, typer.Option(min=0, max=100, help="0 chooses greedily; above it, tokens are sampled.")]
TopK = Annotated[int, typer.Option("--top-k", min=0, help="Sample from the K most likely tokens; 0 from all.")]
TopP = Annotated[
    float, typer.Option("--top-p", min=0, max=1, help="Sample from the most likely tokens that reach this probability.")
]
Seed = Annotated[int | None, typer.Option(min=0, help="The same seed gives the same text; by default a random one.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on the last line of the output.")]


def _configured(context: typer.Context, path: Path | None) -> Path | None:
    """Let a file stand in for options that are not given; it is read before they are."""
    if path is not None:
        from sled.config import ConfigError, read

        context.default_map = _read(lambda file: read(file, context.command.name or ""), path, "--config", ConfigError)
    return path


ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config",
        callback=_configured,
        is_eager=True,
        help="YAML file that stands in for options that are not given; its keys are their names.",
    ),
]


@app.callback()
def _options(
    log_level: Annotated[
        str, typer.Option("--log-level", envvar="SLED_LOG_LEVEL", help="debug, info, warning or error.")
    ] = "info",
) -> None:
    if log_level.upper() not in logging.getLevelNamesMapping():
        raise typer.BadParameter(f"{log_level!r} is no log level: use debug, info, warning or error")
    logging.basicConfig(level=log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s")


# Models -----------------------------------------------------------------------------------------------------------


@model.command("pull")
def model_pull(
    name: Annotated[
        str | None,
        typer.Argument(help="A hub id (org/name), a local folder, or nothing for SmolLM2-135M-Instruct."),
    ] = None,
    *,
    as_json: Json = False,
) -> None:
    """Get a target model once, check it, and print its folder."""
    folder = _pull(name)
    _tell({"folder": str(folder)}, str(folder), as_json=as_json)


@model.command("export")
def model_export(
    target: Annotated[
        str | None, typer.Argument(help="Target to export: as for `sled model pull`, which is done first.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Folder to make; by default in the model cache.")] = None,
    precision: Annotated[Precision, typer.Option(help="How the weights are stored.")] = Precision.INT8,
    *,
    as_json: Json = False,
) -> None:
    """Export a model as an ONNX drafter, and print its folder."""
    folder = _export(_pull(target), out, precision)
    _tell({"folder": str(folder)}, str(folder), as_json=as_json)


def _pull(name: str | None) -> Path:
    from models.progress import RichProgress
    from models.pull import pull_target

    with RichProgress(Console(stderr=True)) as progress:
        return pull_target(name, progress=progress)


def _export(target: Path, out: Path | None = None, precision: Precision = Precision.INT8) -> Path:
    from models.export import export_drafter
    from models.progress import RichProgress

    with RichProgress(Console(stderr=True)) as progress:
        return export_drafter(target, out, precision=precision.value, progress=progress)


@draft.command("distill")
def draft_distill(
    out: Annotated[Path, typer.Option("--out", help="Folder of the drafter to make; its work is kept beside it.")],
    target: TargetName = None,
    layers: Annotated[
        str | None, typer.Option(help="How many of the target's layers, or which (0,1,2,29); by default a third.")
    ] = None,
    width: Annotated[
        int | None,
        typer.Option(
            help="Make a student of its own shape instead of a cut: a Llama of this width, a multiple of 16, with so "
            "many --layers. It can be smaller than any cut and fits every target, but must learn all but its "
            "embeddings anew."
        ),
    ] = None,
    frontier: Annotated[
        str | None,
        typer.Option(
            help="Make students of several numbers of layers (2,4,9,15) of the same texts instead, in OUT/N-layers, "
            "and print one table to choose by; --minutes is then for each."
        ),
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(help="JSON Lines of prompts; by default the target thinks up its own."),
    ] = None,
    answers: Annotated[
        Path | None, typer.Option(help="JSON Lines of the target's answers to them; by default it writes them.")
    ] = None,
    evaluation: Annotated[
        Path | None, typer.Option(help="JSON Lines of prompts to judge the drafter by, and never to train on.")
    ] = None,
    minutes: Annotated[
        float | None, typer.Option(min=0.1, help="For everything, roughly; by default until --tokens are seen.")
    ] = None,
    tokens: Annotated[
        int | None, typer.Option(min=1, help="Answer tokens to see, repetitions included; by default six passes.")
    ] = None,
    texts: Annotated[int, typer.Option(min=2, help="Answers the target writes, where no time ends it.")] = 20_000,
    batch: Annotated[int, typer.Option(min=1, help="Answers it writes at a time; more on a GPU.")] = 64,
    vocabulary: Annotated[int, typer.Option(min=1, help="Tokens the drafter can write.")] = 12_288,
    context: Annotated[int, typer.Option(min=16, help="The longest sequence the drafter reads, in tokens.")] = 4096,
    round_trips: Annotated[
        list[float] | None, typer.Option("--round-trip", min=0, help="Milliseconds; may be given again.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    dtype: Annotated[DType, typer.Option(help="What matrices are multiplied in.")] = DType.FLOAT32,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads; by default one for each core.")] = None,
    seed: Annotated[int, typer.Option(help="Of all that is random.")] = 0,
    *,
    as_json: Json = False,
) -> None:
    """Make a small draft model of a target: cut from it, trained on its own answers, exported and measured.

    A run that was killed goes on when it is started again.
    """
    import msgspec
    from transformers.utils import logging as transformers_logging

    from models.distill import distil
    from models.distill.options import Options
    from models.distill.report import compare, describe
    from models.progress import RichProgress

    options = Options(
        prompts=prompts,
        answers=answers,
        evaluation=evaluation,
        layers=_layers(layers),
        width=width,
        vocabulary=vocabulary,
        minutes=minutes,
        tokens=tokens,
        texts=texts,
        batch=batch,
        context=context,
        round_trips_ms=tuple(round_trips) if round_trips else (5.0, 20.0, 50.0, 100.0),
        device=device,
        dtype="bfloat16" if dtype is DType.BFLOAT16 else "float32",
        seed=seed,
        threads=threads,
        command=shlex.join(["sled", *sys.argv[1:]]),
    )
    sizes = _numbers(frontier, "--frontier", "numbers of layers, as in 2,4,9,15") if frontier else None
    if sizes and layers:
        raise typer.BadParameter("--layers names one student, --frontier several: give one of them")
    folder = _pull(target)
    transformers_logging.disable_progress_bar()
    with RichProgress(Console(stderr=True)) as progress:
        if sizes:
            reports = distil.frontier(folder, out, options, students=sizes, progress=progress)
        else:
            reports = [distil.distil(folder, out, options, progress=progress)]
    if as_json:
        typer.echo(msgspec.json.encode(reports if sizes else reports[0]).decode())
    else:
        typer.echo(compare(reports) if sizes else describe(reports[0]))


def _layers(text: str | None) -> int | tuple[int, ...] | None:
    """Read how many layers, or which."""
    if text is None:
        return None
    numbers = _numbers(text, "--layers", "a number of layers, or some layers as in 0,1,2,29")
    return numbers[0] if len(numbers) == 1 else numbers


def _numbers(text: str, option: str, form: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} should be {form}", param_hint=option) from error


# Roles ------------------------------------------------------------------------------------------------------------


@app.command("broker")
def run_broker(
    engine: Annotated[
        BrokerEngine, typer.Option(help="auto takes Mosquitto where it is installed.")
    ] = BrokerEngine.AUTO,
    host: Annotated[
        str, typer.Option(help="Address to listen at; beyond loopback only with --cert, --key and --access.")
    ] = "127.0.0.1",
    port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="0 takes a free port.", show_default="8883 through TLS, else 1883"),
    ] = None,
    state: Annotated[
        Path | None, typer.Option(help="Folder in which Mosquitto keeps retained messages and sessions.")
    ] = None,
    cert: Annotated[Path | None, typer.Option(help="The broker's certificate (PEM): it speaks TLS.")] = None,
    key: Annotated[Path | None, typer.Option(help="Key of that certificate.")] = None,
    ca: Annotated[
        Path | None, typer.Option(help="Authority of the clients: each needs a certificate. Else they have passwords.")
    ] = None,
    crl: Annotated[Path | None, typer.Option(help="The authority's list of revoked certificates.")] = None,
    access: Annotated[Path | None, typer.Option(help="Access file: who may do what.")] = None,
    identity: Annotated[
        Path | None,
        typer.Option(help="Folder of the broker's identity, in place of --cert, --key and --ca."),
    ] = None,
    config: ConfigFile = None,  # noqa: ARG001 -- read before the others
) -> None:
    """Run an MQTT broker on this machine.

    Files of TLS and the access file are read again when they were replaced.
    """
    from broker.security import Security
    from broker.tls import ServerTls
    from sled.run import run_broker as run

    if identity is not None:
        if cert is not None or key is not None or ca is not None:
            raise typer.BadParameter("stands in place of --cert, --key and --ca", param_hint="--identity")
        cert, key, ca = _broker_identity(identity)
    if (cert is None) != (key is None):
        raise typer.BadParameter("a certificate and its key are given together", param_hint="--cert, --key")
    if cert is None and (ca is not None or crl is not None):
        raise typer.BadParameter("only with --cert and --key", param_hint="--ca, --crl")
    try:
        tls = None if cert is None or key is None else ServerTls(cert, key, ca, crl)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--crl") from error
    chosen = port if port is not None else 1883 if tls is None else 8883
    run(engine.value, host, chosen, state, Security(tls, access))


@app.command("verifier")
def run_verifier(
    name: Annotated[
        str | None, typer.Argument(help="Id of this verifier; by default its identity's name, else verifier.")
    ] = None,
    broker: Broker = None,
    root: Root = None,
    identity: IdentityFolder = None,
    target: TargetName = None,
    dtype: Annotated[DType, typer.Option(help="What the target computes in; only float32 is exact.")] = DType.AUTO,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    kv_budget: Annotated[
        float,
        typer.Option("--kv-budget", min=0.01, max=1e6, help="Memory for keys and values of all sessions, in GiB."),
    ] = 1.0,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads; by default one for each core.")] = None,
    capacity: Annotated[int, typer.Option(min=1, help="Sessions served at once.")] = 256,
    batching: Annotated[
        str,
        typer.Option(help="What makes a step: continuous[:TOKENS], static:BATCH[:WAIT_MS] or dynamic:SIZE[:WAIT_MS]."),
    ] = "continuous",
    drain: Annotated[
        float,
        typer.Option(
            min=0,
            help="When told to stop (SIGTERM), serve on for at most so many seconds while devices turn to other "
            "verifiers or end their texts. A second signal stops at once.",
        ),
    ] = 0.0,
    metrics: MetricsPlace = None,
    config: ConfigFile = None,  # noqa: ARG001 -- read before the others
) -> None:
    """Verify the drafts of many devices with one target model."""
    from provisioning.role import Role
    from schemas.topics import check_name

    if name is not None:
        check_name(name, "verifier id")
    _batching(batching)
    connection = _connection(Role.VERIFIER, broker, root, identity, name)
    from sled.run import VerifierSettings
    from sled.run import run_verifier as run

    run(
        VerifierSettings(
            name or connection.client_id or "verifier", connection, _pull(target), dtype.value, device,
            round(kv_budget * 2**30), threads, capacity, batching, drain, metrics,
        )
    )  # fmt: skip


@app.command("agent")
def run_agent(
    device: Annotated[str | None, typer.Argument(help="Id of this device; by default its identity's name.")] = None,
    broker: Broker = None,
    root: Root = None,
    identity: IdentityFolder = None,
    drafter: Drafters = None,
    tokenizer: Annotated[
        Path | None,
        typer.Option(help="Folder of the target's tokenizer; by default the drafter's, or the default target's."),
    ] = None,
    policy: PolicyText = "cost-aware",
    record: Annotated[
        Path | None,
        typer.Option(help="Add what became of every draft to this file, one JSON object per line."),
    ] = None,
    target: Annotated[
        str, typer.Option("--target", help="Name of the only target to use; by default any with the same tokenizer.")
    ] = "",
    threads: Annotated[int, typer.Option(min=1, help="CPU threads for drafting.")] = 1,
    spool: Annotated[
        Path | None, typer.Option(help="File in which requests survive a crash; by default in the user's state folder.")
    ] = None,
    max_tokens: Annotated[
        int, typer.Option("--max-tokens", min=1, help="Length of an answer if the ask leaves it open.")
    ] = 256,
    max_queue: Annotated[
        int, typer.Option("--max-queue", min=1, help="Requests that may wait; more are refused.")
    ] = 16,
    run_tokens: Annotated[
        int,
        typer.Option(
            "--run",
            min=0,
            max=1024,
            help="Tokens the verifier writes by itself in a round for which there is no draft; 0 for one at a time.",
        ),
    ] = 8,
    outage: Annotated[
        Outage,
        typer.Option(
            help="When the verifier does not answer: stall waits; release makes drafts final, so that the text is no "
            "longer the target's; revise shows drafts to apps that take them back, and verifies them later."
        ),
    ] = Outage.STALL,
    outage_failures: Annotated[
        int, typer.Option("--outage-failures", min=1, help="Rounds in a row without an answer that are an outage …")
    ] = 3,
    outage_window: Annotated[
        float, typer.Option("--outage-window", min=0.1, help="… if they lie within so many seconds.")
    ] = 60.0,
    metrics: MetricsPlace = None,
    config: ConfigFile = None,  # noqa: ARG001 -- read before the others
) -> None:
    """Draft on this device, have the drafts verified, and answer apps."""
    from models.default import default_choice
    from provisioning.role import Role
    from schemas.topics import check_name

    if device is not None:
        check_name(device)
    elif identity is None:
        raise typer.BadParameter("name this device, or give its --identity", param_hint="DEVICE")
    _policy(policy)
    _record(record)
    connection = _connection(Role.DEVICE, broker, root, identity, device)
    device = device or connection.client_id
    drafters = _drafters(drafter)
    if not drafters and (shipped := default_choice(tokenizer)):
        drafters = (shipped,)
    from sled.run import AgentSettings
    from sled.run import run_agent as run

    run(
        AgentSettings(
            device,
            connection,
            drafters or (str(_export(_pull(None))),),
            tokenizer or _tokenizer(drafters) or _pull(None),
            policy,
            record,
            target,
            threads,
            spool or platformdirs.user_state_path("sled") / f"{device}.db",
            max_tokens,
            max_queue,
            run_tokens,
            outage.value,
            outage_failures,
            outage_window,
            metrics,
        )
    )


# Apps -------------------------------------------------------------------------------------------------------------


@app.command("ask")
def ask(
    device: Annotated[str, typer.Argument(help="Id of the device to ask.")],
    prompt: Annotated[str, typer.Argument(help="The question; - reads it from standard input.")],
    broker: Broker = None,
    root: Root = None,
    identity: IdentityFolder = None,
    max_tokens: Annotated[int | None, typer.Option("--max-tokens", min=1, help="Length of the answer at most.")] = None,
    stop: Annotated[list[str] | None, typer.Option(help="A text that ends the answer; may be given again.")] = None,
    temperature: Temperature = 0.0,
    top_k: TopK = 0,
    top_p: TopP = 1.0,
    seed: Seed = None,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds to wait for each next piece.")] = 120,
    *,
    revise: Annotated[
        bool,
        typer.Option(
            "--revise",
            help="While the verifier is out of reach, be shown what may be taken back, if the device does so.",
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Ask a device and watch its answer stream."""
    import msgspec

    from provisioning.role import Role
    from schemas.messages import Ask, ErrorEvent
    from schemas.topics import check_name
    from sled.client import Client
    from sled.screen import Screen

    _read(check_name, device, "DEVICE")
    connection = _connection(Role.APP, broker, root, identity)
    text = sys.stdin.read() if prompt == "-" else prompt
    request = Ask(
        prompt=text,
        max_tokens=max_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        seed=seed,
        stop=tuple(stop or ()),
        revise=revise,
    )
    with (
        Client(
            connection.address, root=connection.root, client_id=connection.client_id or None, tls=connection.tls
        ) as client,
        Screen(Console(), redraw=revise and not as_json) as screen,
    ):
        for event in client.ask(device, request, timeout=timeout):
            if as_json:
                typer.echo(msgspec.json.encode(event).decode())
            else:
                screen.show(event)
            if isinstance(event, ErrorEvent):
                if not as_json:
                    _complain(event.message)
                raise typer.Exit(errors.FAILED)


@app.command("sweep")
def sweep(
    broker: Broker = None,
    root: Root = None,
    identity: IdentityFolder = None,
    ttl_factor: Annotated[
        float, typer.Option("--ttl-factor", min=0.01, help="Wait for so many times a session's time to live.")
    ] = 1.0,
    offline: Annotated[
        float | None,
        typer.Option(
            min=60, help="Also clear the states of devices and verifiers that have been away for so many seconds."
        ),
    ] = None,
    watch: Annotated[
        float | None,
        typer.Option(min=0, help="End after so many seconds, 0 for a look only; by default it goes on until stopped."),
    ] = None,
    *,
    malformed: Annotated[bool, typer.Option("--malformed", help="Also clear what nobody can read.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Clear nothing, only say what would be.")] = False,
    as_json: Json = False,
) -> None:
    """Clear retained sessions that nobody keeps up any more.

    A retained message does not say how old it is. So each session is watched from the first sight on, and cleared when
    it was not refreshed within its time to live, an hour as a rule: let it run beside the broker, or for longer than
    that.
    """
    import msgspec

    from provisioning.role import Role
    from sled.run import run_until_signalled
    from sled.sweep import Sweep, SweepOptions

    connection = _connection(Role.SWEEPER, broker, root, identity)
    options = SweepOptions(
        connection.address, connection.root, ttl_factor, offline, malformed, dry_run, watch, connection.tls
    )
    sweeping = Sweep(options, lambda finding: typer.echo(finding.describe(dry_run=dry_run), err=as_json))
    run_until_signalled(sweeping)
    report = sweeping.report()
    typer.echo(msgspec.json.encode(report).decode() if as_json else report.describe())


@app.command("demo")
def demo(
    prompts: Annotated[list[str], typer.Argument(help="One or more questions.")],
    max_tokens: Annotated[int, typer.Option("--max-tokens", min=1, help="Length of each answer at most.")] = 64,
    target: TargetName = None,
    devices: Annotated[
        int, typer.Option(min=1, max=64, help="How many devices; each answers every prompt, side by side.")
    ] = 1,
    drafter: Annotated[
        list[str] | None,
        typer.Option(
            "--drafter",
            help="As for `sled agent`; given again, the devices take turns. By default the drafter that comes "
            "with sled behind a prompt lookup, the drafter alone and a lookup alone, or so with the int8 export of the "
            "target, where that drafter does not fit.",
        ),
    ] = None,
    dtype: Annotated[DType, typer.Option(help="What the target computes in; only float32 is exact.")] = DType.FLOAT32,
    policy: PolicyText = "cost-aware",
    broker: Annotated[BrokerEngine, typer.Option("--broker", help="Which broker to run.")] = BrokerEngine.AUTO,
    logs: Annotated[Path | None, typer.Option(help="Folder in which to keep the logs of the processes.")] = None,
    *,
    check: Annotated[
        bool, typer.Option("--check", help="Have the target alone answer too, and say whether the text is identical.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Run a broker, a verifier and devices on this machine, and watch them answer."""
    from models.default import default_choice
    from schemas.messages import Ask
    from sled.demo import DemoOptions, run_demo
    from sled.fleet import Device
    from sled.report import device_table, system_table, table

    _policy(policy)
    drafters = _drafters(drafter)
    folder = _pull(target)
    if not drafters and (shipped := default_choice(folder)):
        drafters = (shipped, shipped.removeprefix("lookup+"), "lookup")
    if not drafters:
        own = str(_export(folder))
        drafters = (own, f"lookup+{own}", "lookup")
    names = ["device"] if devices == 1 else [f"device-{number}" for number in range(1, devices + 1)]
    chosen = tuple(Device(name, (drafters[i % len(drafters)],), policy) for i, name in enumerate(names))
    console = Console(stderr=as_json and not sys.stdout.isatty())
    ask = Ask(max_tokens=max_tokens)
    report = run_demo(DemoOptions(tuple(prompts), folder, chosen, ask, dtype.value, broker.value, check, logs), console)
    console.print()
    for shown in [table(report)] if devices == 1 else [device_table(report), system_table(report)]:
        console.print(shown)
    if as_json:
        typer.echo(report.to_json())
    if report.identical is False:
        raise typer.Exit(errors.NOT_IDENTICAL)


# Measurements -----------------------------------------------------------------------------------------------------

_PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
_MEASUREMENTS = {
    "roundtrip": "Time a QoS 1 round trip over each broker",
    "verify-step": "Compare a packed verify step with a padded forward that reads no cache",
    "draft-token": "Time one draft token at several contexts",
    "lossless": "Check that devices write exactly what the target alone writes",
    "choose": "Time choosing tokens, greedy and sampled, beside the step they come from",
    "batching": "Compare the batch policies with many devices",
    "speedup": "Say how many times faster one device answers than the target alone",
    "replay": "Replay known texts through a drafter and policies on a virtual clock",
    "policies": "Compare the draft policies at several round-trip times",
    "acceptance": "Show how acceptance depends on the drafter's confidence, entropy and margin",
    "faults": "Kill, freeze and cut off everything under load, and count what was lost",
}
"""What each module of `benchmarks` does; it reads its options itself."""


def _add_measurement(name: str, does: str) -> None:
    @bench.command(name, help=f"{does} (--help for options).", context_settings=_PASS_ON)
    def measure(context: typer.Context) -> None:
        module = importlib.import_module(f"benchmarks.{name.replace('-', '_')}")
        raise typer.Exit(module.main(context.args) or 0)


for _name, _does in _MEASUREMENTS.items():
    _add_measurement(_name, _does)


# Plumbing ---------------------------------------------------------------------------------------------------------


def _read(parse: Callable[[T], R], given: T, option: str, wrong: type[Exception] = ValueError) -> R:
    """Read an option before anything is loaded: a typing mistake should not show only after a model was."""
    try:
        return parse(given)
    except wrong as error:
        raise typer.BadParameter(str(error), param_hint=option) from error


def _connection(
    role: Role, broker: str | None, root: str | None, folder: Path | None, name: str | None = None
) -> Connection:
    """Return how to reach the broker, and as whom: for an identity, whoever its folder says."""
    from sled.connection import identified, plain

    if folder is None:
        return _read(lambda where: plain(where, root), broker, "--broker")
    from provisioning.identity_folder import IdentityFolder

    opened = IdentityFolder(folder)
    return _read(lambda where: identified(opened, role, broker=where, root=root, name=name), broker, "--broker")


def _broker_identity(folder: Path) -> tuple[Path, Path, Path]:
    """Return the files of a broker's identity: its certificate, its key and the authority."""
    from datetime import UTC, datetime

    from provisioning.identity_folder import IdentityFolder
    from provisioning.role import Role
    from sled.connection import require

    opened = IdentityFolder(folder)
    require(opened, Role.BROKER, datetime.now(UTC))
    return opened.identity_file, opened.identity_file, opened.authority_file


def _policy(text: str) -> None:
    from edge_agent.policy import parse_policy

    _read(parse_policy, text, "--policy")


def _record(path: Path | None) -> None:
    from edge_agent.recorder import RecorderError, check_record

    if path is not None:
        _read(check_record, path, "--record", RecorderError)


def _drafters(texts: list[str] | None) -> tuple[str, ...]:
    from edge_agent.drafters.spec import parse_drafter

    return tuple(str(_read(parse_drafter, text, "--drafter")) for text in texts or ())


def _tokenizer(drafters: tuple[str, ...]) -> Path | None:
    """Return the tokenizer folder of the first drafter that has the target's."""
    from edge_agent.drafters.own_tokenizer import tokenizer_folder
    from edge_agent.drafters.spec import parse_drafter

    specs = (parse_drafter(text) for text in drafters)
    folders = (spec.folder for spec in specs if not spec.cross)
    found = (tokenizer_folder(folder) for folder in folders if folder is not None)
    return next((folder for folder in found if folder is not None), None)


def _batching(text: str) -> None:
    from verifier.batching import parse_batching

    _read(parse_batching, text, "--batching")


def _tell(as_object: dict[str, str], as_text: str, *, as_json: bool) -> None:
    import msgspec

    typer.echo(msgspec.json.encode(as_object).decode() if as_json else as_text)


def _complain(sentence: str) -> None:
    typer.echo(f"sled: {sentence}", err=True)


def main() -> None:
    """Run the command; errors that are sentences are shown as such, without a traceback."""
    spin_briefly()
    end_with_parent()
    signal.signal(signal.SIGTERM, _end)  # roles say otherwise for themselves
    _run(app)


def _end(*_: object) -> NoReturn:
    """Leave in good order, so that what was started is stopped."""
    sys.exit(128 + signal.SIGTERM)


def _run(command: Callable[[], object]) -> None:
    try:
        command()
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(errors.FAILED)
    except ImportError as error:
        sentence = errors.missing_extra(error)
        if sentence is None:
            raise
        _complain(sentence)
        sys.exit(errors.FAILED)
    except Exception as error:
        if not errors.is_sentence(error):
            raise
        _complain(str(error))
        sys.exit(errors.FAILED)
