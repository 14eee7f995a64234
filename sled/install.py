"""`sled install` and `sled uninstall`. What they do is in `provisioning.systemd_install`."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from provisioning.systemd import Device, ServiceRole
from provisioning.systemd_install import Installation, InstallReport

RoleName = Annotated[ServiceRole, typer.Argument(help=f"What to run as a service: {', '.join(ServiceRole)}.")]
RootFolder = Annotated[
    Path, typer.Option("--root", help="Write below this folder instead, as into the image of another machine.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Change nothing, only say what would be done.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on the last line of the output.")]


def mount(app: typer.Typer) -> None:
    """Add the commands to `sled`."""
    app.command("install")(install)
    app.command("uninstall")(uninstall)


def install(
    role: RoleName,
    root: RootFolder = Path("/"),
    device: Annotated[
        Device,
        typer.Option(help="What it computes on: cpu, the GPU of a jetson, or an nvidia GPU in a server."),
    ] = Device.CPU,
    program: Annotated[
        str | None,
        typer.Option(help="Absolute path of the sled command, as the service will see it; by default this one."),
    ] = None,
    *,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Run a role as a service of systemd: write its units, and a configuration in /etc/sled where there is none.

    The same again changes nothing but what a newer version does otherwise.
    """
    report = Installation(role, root).install(program or own_program(), device, dry_run=dry_run)
    _tell(report, as_json=as_json)


def uninstall(
    role: RoleName,
    root: RootFolder = Path("/"),
    *,
    purge: Annotated[
        bool, typer.Option("--purge", help="Remove its configuration, its identity and all that it keeps, too.")
    ] = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Stop a role that runs as a service, and remove its units. What is not there is no error."""
    _tell(Installation(role, root).uninstall(purge=purge, dry_run=dry_run), as_json=as_json)


def own_program() -> str:
    """Return the path of the `sled` command that runs: beside the interpreter, as pip puts it, or by its name."""
    beside = Path(sys.executable).with_name("sled")
    return str(beside) if beside.is_file() else shutil.which("sled") or str(beside)


def _tell(report: InstallReport, *, as_json: bool) -> None:
    typer.echo(msgspec.json.encode(report).decode() if as_json else report.describe())
