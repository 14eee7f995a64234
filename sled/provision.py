"""`sled ca`, `sled device`, `sled token` and `sled enroll`. What they do is in `provisioning`, imported when called."""

from __future__ import annotations

import os
import re
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import msgspec
import platformdirs
import typer

from provisioning.render import Target  # noqa: TC001 -- typer reads it
from provisioning.role import GIVEN, Role

if TYPE_CHECKING:
    from broker.address import Addresses
    from provisioning.authority import Authority
    from provisioning.identity_folder import IdentityFolder
    from provisioning.published import PublishedAuthority
    from provisioning.reports import IdentityReport, Report
    from provisioning.token import Ticket

ca = typer.Typer(help="Make the fleet's certificate authority, and answer machines that enrol.", no_args_is_help=True)
device = typer.Typer(help="Register machines, sign for them, revoke them; renew one's own.", no_args_is_help=True)
token = typer.Typer(help="Make tokens with which machines enrol.", no_args_is_help=True)

RENEW: Final = 0
VALID: Final = 1
NO_ANSWER: Final = 2
"""Exit codes of `sled device needs-renewal`."""

_UNITS: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}


def mount(app: typer.Typer) -> None:
    """Add the commands to `sled`."""
    app.add_typer(ca, name="ca")
    app.add_typer(device, name="device")
    app.add_typer(token, name="token")
    app.command("enroll")(enroll)


def _state(name: str) -> Path:
    return platformdirs.user_state_path("sled") / name


CaFolder = Annotated[
    Path | None,
    typer.Option("--ca", envvar="SLED_CA", help="Folder of the authority; by default in the user's state folder."),
]
IdentityPlace = Annotated[
    Path | None,
    typer.Option(
        "--identity",
        envvar="SLED_IDENTITY",
        help="Folder of this machine's identity; by default in the user's state folder.",
    ),
]
PassphraseFile = Annotated[
    Path | None,
    typer.Option(
        "--passphrase-file",
        help="File with the passphrase of the authority's key; by default $SLED_CA_PASSPHRASE, or it is asked for.",
    ),
]
Name = Annotated[str, typer.Argument(help="Name of the machine: its device id, client id and user name.")]
BrokerPlace = Annotated[
    str, typer.Option("--broker", envvar="SLED_BROKER", help="Where the broker is, with TLS: mqtts://host[:port].")
]
Root = Annotated[
    str | None,
    typer.Option(
        "--root", envvar="SLED_ROOT", help="Root of all topics.", show_default="as `sled ca init` was told, sled/v1"
    ),
]
Days = Annotated[int, typer.Option(min=1, max=3650, help="For how many days the certificate is good.")]
Timeout = Annotated[float, typer.Option(min=1, help="Seconds to wait for the operator's answer.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Change nothing, only say what would be done.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on the last line of the output.")]


# The authority ----------------------------------------------------------------------------------------------------


@ca.command("init")
def ca_init(
    folder: CaFolder = None,
    name: Annotated[str, typer.Option(help="What the authority is called, for people.")] = "SLED fleet",
    days: Annotated[int, typer.Option(min=1, max=36500, help="For how many days it is good.")] = 3650,
    root: Annotated[
        str | None, typer.Option("--root", envvar="SLED_ROOT", help="Root of all topics.", show_default="sled/v1")
    ] = None,
    passphrase_file: PassphraseFile = None,
    *,
    passphrase: Annotated[bool, typer.Option("--passphrase", help="Ask for a passphrase to protect its key.")] = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Make the certificate authority of a fleet; one that is there is left as it is."""
    from provisioning import fleet

    opened = _authority_folder(folder)
    secret = _given_passphrase(passphrase_file)
    if secret is None and passphrase:
        secret = typer.prompt("Passphrase", hide_input=True, confirmation_prompt=True, err=True).encode()
    report = fleet.make_authority(
        opened, name, now=_now(), passphrase=secret, lifetime=timedelta(days=days), dry_run=dry_run
    )
    if root is not None and opened.settle(root, now=_now(), dry_run=dry_run):
        report = msgspec.structs.replace(report, changed=True)
    _tell(report, as_json=as_json)


@ca.command("crl")
def ca_crl(
    folder: CaFolder = None, passphrase_file: PassphraseFile = None, *, dry_run: DryRun = False, as_json: Json = False
) -> None:
    """Write the revocation list again, where half of its time is over or it is not what the registry says.

    Every command that signs or revokes does this too.
    """
    from provisioning import fleet

    opened, authority = _authority(folder, passphrase_file)
    _tell(fleet.renew_list(opened, authority, now=_now(), dry_run=dry_run), as_json=as_json)


@ca.command("rules")
def ca_rules(
    kind: Annotated[Target, typer.Option("--for", help="Kind of broker.")],
    out: Annotated[Path, typer.Option("--out", help="Folder in which to write them.")],
    folder: CaFolder = None,
    *,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Write who may do what, as the files that a broker reads which `sled broker` does not run. Again after a change.

    embedded is also what `sled broker` reads, and mosquitto its ACL file; these two are kept in the authority's folder.
    """
    _tell(_authority_folder(folder).write_rules(kind, out, now=_now(), dry_run=dry_run), as_json=as_json)


@ca.command("serve")
def ca_serve(
    broker: Annotated[
        str | None,
        typer.Option(
            "--broker",
            envvar="SLED_BROKER",
            help="Where the broker is, with TLS: mqtts://host[:port].",
            show_default="what the identity says",
        ),
    ] = None,
    identity: IdentityPlace = None,
    folder: CaFolder = None,
    root: Root = None,
    days: Days = 90,
    passphrase_file: PassphraseFile = None,
    end_after: Annotated[
        str | None, typer.Option("--for", metavar="TIME", help="End after 30m, 2h, …; by default it goes on.")
    ] = None,
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Answer nothing, only log what would be said.")] = False,
) -> None:
    """Answer machines that enrol with a token or renew their certificate.

    It needs an identity of role operator: `sled device create NAME --role operator --identity FOLDER`. It renews that
    itself.
    """
    from provisioning.serve import EnrolmentServer, ServeOptions, renew_own
    from sled.connection import identified
    from sled.run import run_until_signalled

    seconds = None if end_after is None else _duration(end_after, "--for").total_seconds()
    opened, authority = _authority(folder, passphrase_file)
    if broker is not None:
        _addresses(broker)
    place, lifetime = _identity_folder(identity), timedelta(days=days)
    renew_own(opened, authority, place, lifetime=lifetime, dry_run=dry_run)
    own = identified(place, Role.OPERATOR, broker=broker, root=root or opened.root)
    options = ServeOptions(
        own.address, own.client_id, own.tls, own.root, lifetime, end_after=seconds, dry_run=dry_run, identity=place
    )
    run_until_signalled(EnrolmentServer(opened, authority, options))


# Machines, at the operator's --------------------------------------------------------------------------------------


@device.command("create")
def device_create(
    name: Name,
    role: Annotated[Role, typer.Option(help=f"What it is: {', '.join(GIVEN)}.")] = Role.DEVICE,
    host: Annotated[
        list[str] | None, typer.Option(help="Of a broker: a name or address that clients use; may be given again.")
    ] = None,
    identity: Annotated[
        Path | None,
        typer.Option(help="Make its key and certificate here too, in this folder, for use on this machine."),
    ] = None,
    broker: Annotated[str, typer.Option("--broker", help="With --identity: where the broker will be.")] = "",
    root: Root = None,
    days: Days = 90,
    folder: CaFolder = None,
    passphrase_file: PassphraseFile = None,
    *,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Register a machine; one that is registered in the same way is left as it is."""
    from provisioning import fleet
    from provisioning.authority import Subject
    from provisioning.identity_folder import IdentityFolder

    if role is Role.ENROLMENT:
        raise typer.BadParameter("a bootstrap identity comes with `sled token create` only", param_hint="--role")
    if broker:
        _addresses(broker)
    hosts = tuple(host or ())
    if identity is None:
        report = fleet.register(_authority_folder(folder), name, role, hosts, now=_now(), dry_run=dry_run)
    else:
        opened, authority = _authority(folder, passphrase_file)
        report = fleet.give_identity(
            opened,
            authority,
            Subject(name, role, hosts),
            IdentityFolder(identity),
            now=_now(),
            lifetime=timedelta(days=days),
            broker=broker,
            root=root or opened.root,
            dry_run=dry_run,
        )
    _tell(report, as_json=as_json)


@device.command("list")
def device_list(folder: CaFolder = None, *, as_json: Json = False) -> None:
    """List the machines."""
    from provisioning import fleet

    _tell(fleet.list_devices(_authority_folder(folder), now=_now()), as_json=as_json)


@device.command("show")
def device_show(name: Name, folder: CaFolder = None, *, as_json: Json = False) -> None:
    """Show a machine and its certificates."""
    from provisioning import fleet

    _tell(fleet.show_device(_authority_folder(folder), name, now=_now()), as_json=as_json)


@device.command("sign")
def device_sign(
    request: Annotated[Path, typer.Argument(help="Signing request, as --csr-out writes it.")],
    out: Annotated[
        Path | None, typer.Option("--out", help="Where the certificate goes; by default beside it, as .pem.")
    ] = None,
    days: Days = 90,
    folder: CaFolder = None,
    passphrase_file: PassphraseFile = None,
    *,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Sign a request that came as a file. Whoever runs this vouches for it: see that it is the machine's own."""
    from provisioning import fleet

    opened, authority = _authority(folder, passphrase_file)
    target = out or request.with_suffix(".pem")
    if target == request:
        raise typer.BadParameter("the certificate would overwrite the request: name its file", param_hint="--out")
    report = fleet.sign(opened, authority, request, target, now=_now(), lifetime=timedelta(days=days), dry_run=dry_run)
    _tell(report, as_json=as_json)


@device.command("revoke")
def device_revoke(
    name: Name,
    folder: CaFolder = None,
    passphrase_file: PassphraseFile = None,
    *,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Make void all that a machine holds, and write the revocation list. Then have the broker read it."""
    from provisioning import fleet

    opened, authority = _authority(folder, passphrase_file)
    _tell(fleet.revoke(opened, authority, name, now=_now(), dry_run=dry_run), as_json=as_json)


@device.command("delete")
def device_delete(
    name: Name,
    folder: CaFolder = None,
    passphrase_file: PassphraseFile = None,
    *,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Revoke a machine and forget it, so that its name is free. One that is not registered is no error."""
    from provisioning import fleet

    opened, authority = _authority(folder, passphrase_file)
    _tell(fleet.delete(opened, authority, name, now=_now(), dry_run=dry_run), as_json=as_json)


@token.command("create")
def token_create(
    name: Name,
    broker: BrokerPlace,
    ttl: Annotated[str, typer.Option(metavar="TIME", help="How long it is good: 15m, 2h, …, at most 7d.")] = "15m",
    root: Root = None,
    folder: CaFolder = None,
    passphrase_file: PassphraseFile = None,
    *,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Make a token with which a registered machine enrols once, and print it. It is a secret while it is good."""
    from provisioning import fleet

    span = _duration(ttl, "--ttl")
    _addresses(broker)
    opened, authority = _authority(folder, passphrase_file)
    report = fleet.make_token(
        opened, authority, name, broker=broker, root=root or opened.root, ttl=span, now=_now(), dry_run=dry_run
    )
    _tell(report, as_json=as_json)


# On the machine ---------------------------------------------------------------------------------------------------


def enroll(
    text: Annotated[
        str | None, typer.Option("--token", envvar="SLED_TOKEN", help="The token; - reads it from standard input.")
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Without a token: the name this machine was registered under.")
    ] = None,
    csr_out: Annotated[
        Path | None, typer.Option("--csr-out", help="Send nothing: write a signing request to carry to the operator.")
    ] = None,
    certificate: Annotated[
        Path | None, typer.Option("--certificate", help="Install the certificate that the operator gave back.")
    ] = None,
    fingerprint: Annotated[
        str,
        typer.Option("--fingerprint", help="With --certificate: SHA-256 of the authority, as the operator says it."),
    ] = "",
    broker: Annotated[str, typer.Option("--broker", help="Without a token: where the broker is.")] = "",
    identity: IdentityPlace = None,
    timeout: Timeout = 60,
    *,
    replace: Annotated[bool, typer.Option("--replace", help="Take the place of an identity that is there.")] = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Get this machine's identity: with a token over MQTT, or by file.

    The key is made here and stays here.
    """
    from provisioning import machine
    from provisioning.exchange import MqttAsk

    place = _identity_folder(identity)
    if broker:
        _addresses(broker)
    if certificate is not None:
        _tell(
            machine.install_certificate(place, certificate, now=_now(), trusted=fingerprint, dry_run=dry_run),
            as_json=as_json,
        )
        return
    ticket = None if text is None else _ticket(text)
    if csr_out is not None:
        _tell(_signing_request(place, csr_out, name, broker, ticket, dry_run=dry_run), as_json=as_json)
        return
    if ticket is None:
        raise typer.BadParameter("give --token, or --name with --csr-out, or --certificate", param_hint="--token")
    report = machine.enrol(place, ticket, MqttAsk(timeout), now=_now(), replace=replace, dry_run=dry_run)
    _tell(report, as_json=as_json)


@device.command("rotate")
def device_rotate(
    identity: IdentityPlace = None,
    csr_out: Annotated[
        Path | None, typer.Option("--csr-out", help="Send nothing: write a signing request to carry to the operator.")
    ] = None,
    certificate: Annotated[
        Path | None, typer.Option("--certificate", help="Install the certificate that the operator gave back.")
    ] = None,
    broker: Annotated[
        str, typer.Option("--broker", help="Where the broker is; by default where it was when this machine enrolled.")
    ] = "",
    folder: Annotated[
        Path | None,
        typer.Option("--ca", help="Beside the authority: have the one in this folder sign, and ask nobody."),
    ] = None,
    days: Annotated[
        int, typer.Option(min=1, max=3650, help="With --ca: for how many days the certificate is good.")
    ] = 90,
    passphrase_file: PassphraseFile = None,
    timeout: Timeout = 60,
    *,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """On a machine: get a new key and certificate with the present ones, which stay until the new ones are there."""
    from provisioning import fleet, machine
    from provisioning.exchange import MqttAsk

    place = _identity_folder(identity)
    if broker:
        _addresses(broker)
    report: Report
    if folder is not None:
        opened, authority = _authority(folder, passphrase_file)
        lifetime = timedelta(days=days)
        report = fleet.renew_identity(opened, authority, place, now=_now(), lifetime=lifetime, dry_run=dry_run)
    elif certificate is not None:
        report = machine.install_certificate(place, certificate, now=_now(), dry_run=dry_run)
    elif csr_out is not None:
        report = machine.write_renewal_request(place, csr_out, broker=broker, dry_run=dry_run)
    else:
        report = machine.renew(place, MqttAsk(timeout), now=_now(), broker=broker, dry_run=dry_run)
    _tell(report, as_json=as_json)


@device.command("needs-renewal")
def device_needs_renewal(identity: IdentityPlace = None, *, as_json: Json = False) -> None:
    """On a machine: say whether its certificate should be renewed. Exit code 0: yes. 1: not yet. 2: cannot be said."""
    try:
        from provisioning import machine

        report = machine.look(_identity_folder(identity), now=_now())
        _tell(report, as_json=as_json)
    except Exception as error:  # noqa: BLE001 -- the exit code 1 that any other way out has would mean "not yet"
        typer.echo(f"sled: {error}", err=True)
        raise typer.Exit(NO_ANSWER) from None
    raise typer.Exit(RENEW if report.renew else VALID)


# Plumbing ---------------------------------------------------------------------------------------------------------


def _now() -> datetime:
    return datetime.now(UTC)


def _authority_folder(path: Path | None) -> PublishedAuthority:
    from provisioning.published import PublishedAuthority

    return PublishedAuthority(path or _state("ca"))


def _identity_folder(path: Path | None) -> IdentityFolder:
    from provisioning.identity_folder import IdentityFolder

    return IdentityFolder(path or _state("identity"))


def _authority(path: Path | None, passphrase_file: Path | None) -> tuple[PublishedAuthority, Authority]:
    folder = _authority_folder(path)
    secret = _given_passphrase(passphrase_file)
    if secret is None and folder.is_protected() and sys.stdin.isatty():
        secret = typer.prompt("Passphrase", hide_input=True, err=True).encode()
    return folder, folder.authority(secret if folder.is_protected() else None)


def _given_passphrase(file: Path | None) -> bytes | None:
    if file is None:
        return os.environ.get("SLED_CA_PASSPHRASE", "").encode() or None
    from provisioning.files import read_secret

    secret = read_secret(file, "the passphrase in", otherwise="protect the key by another one")
    if secret is None:
        raise typer.BadParameter(f"there is no {file}", param_hint="--passphrase-file")
    if not secret.strip():
        raise typer.BadParameter(f"{file} is empty", param_hint="--passphrase-file")
    return secret.strip()


def _ticket(text: str) -> Ticket:
    from provisioning.token import MOST_CHARACTERS, decode

    return decode(sys.stdin.read(2 * MOST_CHARACTERS) if text == "-" else text)


def _signing_request(
    place: IdentityFolder, out: Path, name: str | None, broker: str, ticket: Ticket | None, *, dry_run: bool
) -> IdentityReport:
    from provisioning import machine

    if ticket is not None:
        return machine.write_signing_request(
            place,
            out,
            name=ticket.device,
            authority=ticket.authority,
            broker=ticket.broker,
            root=ticket.root,
            dry_run=dry_run,
        )
    if name is None:
        raise typer.BadParameter("give the name this machine was registered under", param_hint="--name")
    return machine.write_signing_request(place, out, name=name, broker=broker, dry_run=dry_run)


def _addresses(text: str) -> Addresses:
    from broker.address import parse_addresses

    try:
        return parse_addresses(text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--broker") from error


def _duration(text: str, option: str) -> timedelta:
    found = re.fullmatch(r"([1-9][0-9]{0,5})([smhd])", text)
    if found is None:
        raise typer.BadParameter(f"{text[:40]!r} is no time: write 90s, 15m, 2h or 1d", param_hint=option)
    return timedelta(seconds=int(found[1]) * _UNITS[found[2]])


def _tell(report: Report, *, as_json: bool) -> None:
    typer.echo(msgspec.json.encode(report).decode() if as_json else report.describe())
