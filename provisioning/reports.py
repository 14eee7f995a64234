"""What the commands about identities say: as JSON to programs, as a few lines to people."""

from __future__ import annotations

from datetime import datetime

from msgspec import Struct

from provisioning.certificate import shown


class AuthorityReport(Struct, frozen=True):
    """An authority.

    Attributes:
        folder: where it is.
        fingerprint: SHA-256 of its certificate.
        ends: when its certificate expires; None where it was not made yet.
        changed: whether this command made or altered anything.
    """

    folder: str
    fingerprint: str
    ends: datetime | None
    changed: bool
    dry_run: bool = False

    def describe(self) -> str:
        """Return lines for people."""
        if self.ends is None:
            return f"{self.folder}: an authority would be made here"
        made = "made" if self.changed else "there already, and left as it is"
        return (
            f"{self.folder}: an authority, {made}\n"
            f"SHA-256      {self.fingerprint}\n"
            f"valid until  {shown(self.ends)}\n"
            "ca.key can make any machine's identity: keep it, and a backup of the folder, where nobody else gets at it"
        )


class ListReport(Struct, frozen=True):
    """The revocation list."""

    file: str
    revoked: int
    number: int
    changed: bool
    dry_run: bool = False

    def describe(self) -> str:
        """Return a line for people."""
        made = "written" if self.changed else "up to date"
        return f"{self.file}: list {self.number}, {self.revoked} certificates revoked, {made}"


class RulesReport(Struct, frozen=True):
    """Access rules for a kind of broker."""

    files: tuple[str, ...]
    changed: bool
    dry_run: bool = False

    def describe(self) -> str:
        """Return a line for each file."""
        made = "written" if self.changed else "up to date"
        return "\n".join(f"{file}: {made}" for file in self.files)


class CertificateReport(Struct, frozen=True):
    """A certificate in the registry."""

    serial: str
    begins: datetime
    ends: datetime


class DeviceReport(Struct, frozen=True):
    """A machine in the registry.

    Attributes:
        state: `registered` (nothing issued yet), `enrolled`, `expired`, `revoked`, or `absent` (not registered).
        certificates: the oldest first.
        tokens: how many open ones there are for it.
        changed: whether this command altered anything.
    """

    name: str
    role: str
    state: str
    hosts: tuple[str, ...] = ()
    created: datetime | None = None
    certificates: tuple[CertificateReport, ...] = ()
    tokens: int = 0
    changed: bool = False
    dry_run: bool = False

    def line(self) -> str:
        """Return one line of a list."""
        until = f"until {shown(self.certificates[-1].ends)}" if self.state == "enrolled" else ""
        return f"{self.name:<24}{self.role:<10}{self.state:<12}{until}".rstrip()

    def describe(self) -> str:
        """Return lines for people."""
        if self.state == "absent":
            return f"{self.name}: not registered; what was issued under the name is void, and the name is free"
        lines = [self.line(), *(f"  host {host}" for host in self.hosts)]
        lines += [f"  certificate {entry.serial}, until {shown(entry.ends)}" for entry in self.certificates]
        if self.tokens:
            lines.append(f"  open tokens: {self.tokens}")
        if self.state == "revoked":
            lines.append(
                "  the broker must read the access file and the revocation list again, as `sled broker` does by itself"
            )
        return "\n".join(lines)


class DevicesReport(Struct, frozen=True):
    """All machines in the registry, by name."""

    devices: tuple[DeviceReport, ...]

    def describe(self) -> str:
        """Return lines for people."""
        if not self.devices:
            return "no device is registered: `sled device create NAME` registers one"
        return "\n".join(device.line() for device in self.devices)


class SignedReport(Struct, frozen=True):
    """A certificate that the operator signed.

    Attributes:
        file: where it is; holds the authority's certificate too.
    """

    name: str
    file: str
    ends: datetime | None
    changed: bool
    dry_run: bool = False

    def describe(self) -> str:
        """Return a line for people."""
        if self.ends is None:
            return f"a certificate for {self.name!r} would be written to {self.file}"
        return (
            f"{self.file}: the certificate of {self.name!r}, until {shown(self.ends)}. It is no secret; on the "
            "machine: `sled enroll --certificate FILE`"
        )


class TokenReport(Struct, frozen=True):
    """A new token.

    Attributes:
        token: the token itself, a secret; empty in a dry run.
        identity: name of its bootstrap identity.
    """

    device: str
    token: str
    identity: str
    expires: datetime
    dry_run: bool = False

    def describe(self) -> str:
        """Return lines for people."""
        if self.dry_run:
            return f"a token for {self.device!r} would be made, good until {shown(self.expires)}"
        return self.token


class IdentityReport(Struct, frozen=True):
    """A machine's identity, on the machine.

    Attributes:
        folder: where it is.
        fingerprint: SHA-256 of the authority's certificate.
        pending: where the signing request is that waits for an answer; empty if none does.
        begins: from when the certificate is valid; None if there is none yet.
        renew: whether it is time to renew it.
    """

    name: str
    folder: str
    role: str = ""
    fingerprint: str = ""
    begins: datetime | None = None
    ends: datetime | None = None
    renew: bool = False
    pending: str = ""
    changed: bool = False
    dry_run: bool = False

    def describe(self) -> str:
        """Return lines for people."""
        if self.pending:
            return (
                f"{self.pending}: a signing request for {self.name!r}. Have the operator run `sled device sign` on it, "
                "and finish here with `sled enroll --certificate FILE`"
            )
        if self.dry_run:
            return f"{self.name!r} would get a new certificate in {self.folder}"
        assert self.ends is not None
        made = "installed" if self.changed else "there"
        return (
            f"{self.folder}: the identity of {self.name!r} ({self.role}), {made}\n"
            f"valid until  {shown(self.ends)}{', time to renew' if self.renew else ''}\n"
            f"authority    SHA-256 {self.fingerprint}"
        )


Report = (
    AuthorityReport
    | ListReport
    | RulesReport
    | DeviceReport
    | DevicesReport
    | SignedReport
    | TokenReport
    | IdentityReport
)
