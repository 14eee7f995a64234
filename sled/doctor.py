"""`sled doctor`: looks at everything that a role needs on this machine, and says what to do about what it finds."""

from __future__ import annotations

import contextlib
import logging
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import platformdirs
import typer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from rich.table import Table

    from broker.address import BrokerAddress
    from broker.tls import ServerTls, Tls
    from provisioning.identity_folder import Identity
    from schemas.messages import VerifierState
    from sled.checks.check import Check, Examination
    from sled.checks.connection import Heard
    from sled.checks.drafting import Drafting

_log = logging.getLogger(__name__)

_LOOPBACK: Final = "127.0.0.1:1883"


class Subject(StrEnum):
    """The role that is looked at."""

    AGENT = "agent"
    VERIFIER = "verifier"
    APP = "app"
    BROKER = "broker"


@dataclass(frozen=True, slots=True)
class Settings:
    """What `sled doctor` was told; None and empty texts are looked up.

    Attributes:
        role: a `Subject`.
        identity: folder of the identity.
        identity_asked_for: it was named, so that it must hold one.
        broker: as for --broker; by default where the identity's folder says, else this machine.
        root: of all topics; by default as the identity's folder says.
        drafters: as for --drafter; by default the drafter that comes with sled.
        tokenizer: folder of the target's tokenizer; by default the drafter's.
        threads: for drafting; 0 for one.
        spool: file of the agent; by default in the user's state folder, and that of an agent that is a service here.
        device: id of the agent, where there is no identity.
        config: file to check; what it says stands in for what was not told.
        revocations: a revocation list to look this machine up in.
        take_over: connect even where that ends the connection of a role that runs; None decides by what is known.
        serving: of a broker: what its configuration file says.
    """

    role: str
    identity: Path
    identity_asked_for: bool = False
    broker: str = ""
    root: str = ""
    drafters: tuple[str, ...] = ()
    tokenizer: Path | None = None
    threads: int = 0
    spool: Path | None = None
    device: str = ""
    config: Path | None = None
    revocations: Path | None = None
    take_over: bool | None = None
    serving: Mapping[str, Any] = field(default_factory=dict)


def mount(app: typer.Typer) -> None:
    """Add the command to `sled`."""
    app.command("doctor")(doctor)


def doctor(
    role: Annotated[Subject, typer.Argument(help="What this machine is.")] = Subject.AGENT,
    identity: Annotated[
        Path | None,
        typer.Option(envvar="SLED_IDENTITY", help="Folder of its identity; by default in the user's state folder."),
    ] = None,
    broker: Annotated[
        str,
        typer.Option(
            envvar="SLED_BROKER", help="Where the broker is; by default where it was when this machine enrolled."
        ),
    ] = "",
    root: Annotated[str, typer.Option(envvar="SLED_ROOT", help="Root of all topics.")] = "",
    drafter: Annotated[
        list[str] | None, typer.Option("--drafter", help="Of an agent: as for `sled agent`; may be given again.")
    ] = None,
    tokenizer: Annotated[Path | None, typer.Option(help="Of an agent: folder of the target's tokenizer.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads for drafting; by default 1.")] = None,
    device: Annotated[str, typer.Option(help="Of an agent without an identity: its id, to find its spool.")] = "",
    spool: Annotated[Path | None, typer.Option(help="Of an agent: its spool, as for `sled agent`.")] = None,
    config: Annotated[
        Path | None,
        typer.Option("--config", help="A configuration file to check, and to take what is not said here from."),
    ] = None,
    crl: Annotated[Path | None, typer.Option("--crl", help="Look this machine up in this revocation list.")] = None,
    *,
    take_over: Annotated[
        bool | None,
        typer.Option(
            "--take-over/--no-take-over",
            help="Connect under this machine's name even if its role runs: that one loses its connection for a "
            "moment. By default not where an agent runs, and not as a verifier.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object on the last line.")] = False,
) -> None:
    """Look at all that a role needs here, and say what to do.

    Exit code 0: all well, or warnings only. 1: something is wrong. 2: not everything could be looked at.
    """
    import msgspec  # noqa: PLC0415 -- loaded when called, as in all commands

    settings = Settings(
        role.value,
        identity or platformdirs.user_state_path("sled") / "identity",
        identity is not None,
        broker,
        root,
        tuple(drafter or ()),
        tokenizer,
        threads or 0,
        spool,
        device,
        config,
        crl,
        take_over,
    )
    _check_options(settings)
    settings = _with_config(settings)
    _check_options(settings)
    found = examine(settings)
    if as_json:
        typer.echo(msgspec.json.encode(found).decode())
    else:
        _show(found)
    raise typer.Exit(found.exit_code)


def examine(settings: Settings) -> Examination:
    """Make all checks.

    Raises:
        ValueError: the address of the broker that this machine enrolled with is none.
        InvalidTopic: the root is none.
    """
    return _Examiner(settings).run()


class _Examiner:
    """One examination; later checks use what earlier ones have found."""

    def __init__(self, settings: Settings) -> None:
        from provisioning.identity_folder import IdentityFolder  # noqa: PLC0415

        self._settings = settings
        self._checks: list[Check] = []
        self._folder = IdentityFolder(settings.identity)
        self._identity: Identity | None = None
        self._addresses: tuple[BrokerAddress, ...] = ()
        self._root = settings.root
        self._open: list[BrokerAddress] = []
        self._begun: dict[str, datetime] = {}
        self._agent_runs = False
        self._states: dict[str, VerifierState] = {}

    def run(self) -> Examination:
        """Make the checks in order."""
        from sled.checks.check import Examination  # noqa: PLC0415

        self._try("Python packages", self._packages)
        self._try("configuration", self._configuration)
        self._try("identity", self._certificates)
        if self._settings.role == Subject.BROKER:
            self._try("listener", self._listener)
            self._try("clock", self._clock)
            return Examination(self._settings.role, tuple(self._checks))
        if self._settings.role == Subject.AGENT:
            self._try("disk", self._disk)
        self._try("broker", self._reach)
        self._try("clock", self._clock)
        self._try("MQTT", self._connect)
        if self._settings.role == Subject.AGENT:
            self._try("draft speed", self._drafting)
        return Examination(self._settings.role, tuple(self._checks))

    def _try(self, name: str, probe: Callable[[], None]) -> None:
        """Make a check; what it did not expect is a finding too, and ends nothing else."""
        from sled.checks.check import skipped, unknown  # noqa: PLC0415
        from sled.errors import missing_extra  # noqa: PLC0415

        try:
            probe()
        except ImportError as error:
            missing = missing_extra(error)
            if missing is None:
                self._checks.append(unknown(name, f"it cannot be imported: {error}", "install sled again"))
            else:
                self._checks.append(skipped(name, missing))
        except Exception as error:  # noqa: BLE001 -- a fault in one check must not hide the others
            _log.debug("the check %r failed", name, exc_info=True)
            do = "please report it; `sled --log-level debug doctor` shows where it happened"
            self._checks.append(unknown(name, f"{type(error).__name__}: {error}", do))

    def _packages(self) -> None:
        from sled.checks.extras import check_extras  # noqa: PLC0415

        self._checks.append(check_extras(self._settings.role))

    def _configuration(self) -> None:
        from sled import config  # noqa: PLC0415
        from sled.checks.configuration import check_configuration  # noqa: PLC0415

        role = self._settings.role
        self._checks.append(
            check_configuration(
                self._settings.config if role in config.ROLES else None,
                lambda file: config.read(file, role),
                config.ConfigError,
            )
        )

    def _certificates(self) -> None:
        from sled.checks import certificate  # noqa: PLC0415

        now = datetime.now(UTC)
        self._identity, found = certificate.check_identity(self._folder, asked_for=self._settings.identity_asked_for)
        self._checks.append(found)
        self._checks.append(certificate.check_role(self._identity, self._settings.role))
        self._checks.append(certificate.check_certificate(self._identity, now))
        self._checks.append(certificate.check_list(self._identity, self._settings.revocations, now))
        if self._identity is not None:
            self._begun["this machine's certificate"] = self._identity.certificate.not_valid_before_utc

    def _listener(self) -> None:
        from broker.security import Security  # noqa: PLC0415
        from sled.checks import listener  # noqa: PLC0415
        from sled.checks.disk import check_space  # noqa: PLC0415

        serving = self._settings.serving
        tls = self._server_tls()
        host, access = serving.get("host", "127.0.0.1"), serving.get("access")
        port = serving.get("port", 1883 if tls is None else 8883)
        self._checks.append(listener.check_engine(serving.get("engine", "auto")))
        self._checks.append(listener.check_files(tls))
        self._checks.append(listener.check_rules(host, Security(tls, Path(access) if access else None)))
        self._checks.append(check_space(Path(serving.get("state", platformdirs.user_state_path("sled")))))
        self._checks.append(listener.check_listener(host, port, tls))

    def _server_tls(self) -> ServerTls | None:
        from broker.tls import ServerTls  # noqa: PLC0415

        crl = self._settings.revocations
        if self._identity is not None:
            own = self._folder.identity_file
            return ServerTls(own, own, self._folder.authority_file, crl)
        certificate, key, ca = (
            Path(name) if name else None for name in map(self._settings.serving.get, ("cert", "key", "ca"))
        )
        return None if certificate is None or key is None else ServerTls(certificate, key, ca, crl)

    def _disk(self) -> None:
        from sled.checks.disk import check_space, check_spool  # noqa: PLC0415

        spools = self._spools()
        looked = [(spool, *check_spool(spool)) for spool in spools]
        self._agent_runs = any(runs for _, runs, _ in looked)
        if not looked:
            self._checks.append(check_space(platformdirs.user_state_path("sled")))
            return
        spool, _, found = next((one for one in looked if one[1]), looked[-1])
        self._checks += [check_space(spool.parent), found]

    def _spools(self) -> list[Path]:
        """Return where an agent of this machine may have its requests, the likeliest last."""
        from provisioning.systemd import AGENT_SPOOL  # noqa: PLC0415

        if self._settings.spool is not None:
            return [self._settings.spool]
        name = self._settings.device or (self._identity.name if self._identity else "")
        spools = [platformdirs.user_state_path("sled") / f"{name}.db"] if name else []
        with contextlib.suppress(OSError):  # the service's folder is closed to all but root
            if (service := Path(AGENT_SPOOL)).exists():
                spools.append(service)
        return spools

    def _reach(self) -> None:
        from broker.address import parse_addresses  # noqa: PLC0415
        from sled.checks.reach import reach  # noqa: PLC0415

        place = None
        with contextlib.suppress(Exception):  # a damaged folder was reported above
            place = self._folder.place()
        self._root = self._settings.root or (place.root if place else "") or "sled/v1"
        self._addresses = parse_addresses(self._settings.broker or (place.broker if place else "") or _LOOPBACK)
        for address in self._addresses:
            reached = reach(address, self._tls(address))
            self._checks.extend(reached.checks)
            if reached.open:
                self._open.append(address)
            if reached.begun is not None:
                self._begun[f"the certificate of {address}"] = reached.begun

    def _clock(self) -> None:
        from sled.checks.clock import check_clock, is_synchronised  # noqa: PLC0415

        self._checks.append(check_clock(datetime.now(UTC), self._begun, synchronised=is_synchronised()))

    def _connect(self) -> None:
        from sled.checks.connection import not_connected  # noqa: PLC0415

        heard = not_connected("no broker could be reached") if not self._open else self._heard(self._open[0])
        self._checks.extend(heard.checks)
        self._states = heard.states

    def _heard(self, address: BrokerAddress) -> Heard:
        from sled.checks.connection import Visit, connect, not_connected  # noqa: PLC0415

        tls = self._tls(address)
        name = self._identity.name if tls and self._identity else address.username
        if name is not None and not self._may_connect():
            return not_connected(
                f"a broker lets nobody in twice: a connection as {name!r} would end that of the running role",
                "stop it first, or give --take-over: it comes back by itself, and loses nothing",
            )
        return connect(address, tls, Visit(self._settings.role, name, self._root))

    def _may_connect(self) -> bool:
        if self._settings.take_over is not None:
            return self._settings.take_over
        return not self._agent_runs and self._settings.role != Subject.VERIFIER

    def _tls(self, address: BrokerAddress) -> Tls | None:
        return self._folder.tls() if address.tls and self._identity is not None else None

    def _drafting(self) -> None:
        from sled.checks.drafting import check_drafting  # noqa: PLC0415

        self._checks.extend(check_drafting(self._chosen_drafting(), self._states))

    def _chosen_drafting(self) -> Drafting | None:
        from edge_agent.drafters.own_tokenizer import tokenizer_folder  # noqa: PLC0415
        from edge_agent.drafters.spec import parse_drafter  # noqa: PLC0415
        from models.default import default_choice  # noqa: PLC0415
        from sled.checks.drafting import Drafting  # noqa: PLC0415

        settings = self._settings
        shipped = default_choice(settings.tokenizer)
        drafters = settings.drafters or ((shipped,) if shipped else ())
        folders = [spec.folder for spec in map(parse_drafter, drafters) if spec.folder is not None and not spec.cross]
        tokenizer = settings.tokenizer or next(filter(None, map(tokenizer_folder, folders)), None)
        return None if tokenizer is None or not drafters else Drafting(drafters, tokenizer, settings.threads or 1)


def _with_config(settings: Settings) -> Settings:
    """Return the settings, with what the configuration file says where the command line says nothing.

    A file that cannot be used changes nothing: it is a finding of its own.
    """
    from sled import config  # noqa: PLC0415

    if settings.config is None or settings.role not in config.ROLES:
        return settings
    try:
        said = config.read(settings.config, settings.role)
    except config.ConfigError:
        return settings
    drafters = said.get("drafter") or ()
    identity = said.get("identity") if not settings.identity_asked_for else None
    changes: dict[str, Any] = {
        "broker": settings.broker or said.get("broker", ""),
        "root": settings.root or said.get("root", ""),
        "drafters": settings.drafters or ((drafters,) if isinstance(drafters, str) else tuple(drafters)),
    }
    if identity:
        changes |= {"identity": Path(identity), "identity_asked_for": True}
    if settings.role == Subject.AGENT:
        for name, kind in (("tokenizer", Path), ("spool", Path), ("device", str)):
            if not getattr(settings, name) and said.get(name):
                changes[name] = kind(said[name])
        changes["threads"] = settings.threads or said.get("threads", 0)
    if settings.role == Subject.BROKER:
        crl = said.get("crl")
        changes |= {"serving": said, "revocations": settings.revocations or (Path(crl) if crl else None)}
    return replace(settings, **changes)


def _check_options(settings: Settings) -> None:
    """See a typing mistake before anything is looked at."""
    from broker.address import parse_addresses  # noqa: PLC0415
    from schemas.topics import Topics, check_name  # noqa: PLC0415

    try:
        if settings.broker:
            parse_addresses(settings.broker)
        if settings.device:
            check_name(settings.device, "device id")
        if settings.root:
            Topics(settings.root)
        if settings.drafters:
            from edge_agent.drafters.spec import parse_drafter  # noqa: PLC0415

            for text in settings.drafters:
                parse_drafter(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def _show(found: Examination) -> None:
    from rich.console import Console  # noqa: PLC0415

    from sled.checks.check import Outcome  # noqa: PLC0415

    console = Console()
    console.print(table(found))
    counts = {outcome: found.count(outcome) for outcome in Outcome}
    console.print(", ".join(f"{count} {outcome}" for outcome, count in counts.items() if count))


def table(found: Examination) -> Table:
    """Return the findings for people."""
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    styles = {"ok": "green", "warning": "yellow", "failed": "bold red", "skipped": "dim", "unknown": "magenta"}
    shown = Table(title=f"sled doctor {found.role}", title_justify="left", show_lines=False)
    for heading in ("", "check", "found, and what to do"):
        shown.add_column(heading, overflow="fold", no_wrap=heading == "")
    for check in found.checks:
        # Text, not markup: what was found may hold brackets, and must not be able to style the terminal.
        what = Text(check.found) if not check.do else Text(check.found) + Text(f"\n→ {check.do}", style="bold")
        shown.add_row(Text(check.outcome.value, style=styles[check.outcome]), Text(check.name), what)
    return shown
