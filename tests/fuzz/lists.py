"""Revocation lists that somebody has broken or swapped, at all who read one."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ObjectIdentifier

from broker.errors import BrokerStartError
from broker.tls import ServerTls
from provisioning.authority import sign_list
from provisioning.authority_folder import AuthorityFolder
from provisioning.errors import ProvisioningError
from provisioning.identity_folder import Identity, IdentityFolder, Place
from sled.checks.certificate import check_list
from tests.fuzz.target import Target
from tests.provisioning import bench

if TYPE_CHECKING:
    from pathlib import Path

    from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes

    from provisioning.authority import Authority


def targets(folder: Path) -> list[Target]:
    """Return them all.

    Args:
        folder: for an authority's and an identity's.
    """
    kept = AuthorityFolder(folder / "ca")
    kept.create("fleet", now=bench.NOW)
    authority = kept.authority()
    machine = bench.machine(authority)
    identity = Identity(machine.certificate, machine.key, authority.certificate)
    place = IdentityFolder(folder / "broker")
    place.path.mkdir(mode=0o700)
    place.install(identity, Place("pi", "mqtts://desk"))
    file = folder / "crl.pem"
    tls = ServerTls(place.identity_file, place.identity_file, place.authority_file, file)
    made = _lists(authority, machine.certificate)

    def doctor(content: bytes) -> object:
        file.write_bytes(content)
        return check_list(identity, file, bench.NOW)

    def operator(content: bytes) -> object:
        kept.list_file.write_bytes(content)
        return kept.list_is_due(authority, bench.NOW)

    def broker(content: bytes) -> object:
        file.write_bytes(content)
        return tls.context()

    return [
        Target("revocation list, doctor", doctor, (), made, weight=3),
        Target("revocation list, operator", operator, (ProvisioningError,), made, weight=3),
        Target("revocation list, broker", broker, (BrokerStartError,), made, weight=2),
    ]


def _lists(authority: Authority, certificate: x509.Certificate) -> tuple[bytes, ...]:
    """Return the authority's own, with nobody and with somebody in it, and others' that have been put in its place."""
    revoked = [(certificate.serial_number, bench.NOW), (7, bench.NOW)]
    own = [sign_list(authority, some, number=0, now=bench.NOW) for some in ([], revoked)]
    others = [
        _signed(rsa.generate_private_key(65_537, 2048), hashes.SHA256()),
        _signed(ed25519.Ed25519PrivateKey.generate(), None),
        _signed(authority.key, hashes.SHA256(), *_odd()),
    ]
    return (*(each.public_bytes(Encoding.PEM) for each in (*own, *others)), own[1].public_bytes(Encoding.DER))


def _odd() -> tuple[x509.ExtensionType, ...]:
    return (
        x509.UnrecognizedExtension(ObjectIdentifier("1.2.3.4"), b"\x30\x80"),
        x509.CRLNumber(1 << 150),
        x509.IssuerAlternativeName([x509.DNSName("a"), x509.UniformResourceIdentifier("http://[")]),
    )


def _signed(
    key: CertificateIssuerPrivateKeyTypes, algorithm: hashes.SHA256 | None, *extensions: x509.ExtensionType
) -> x509.CertificateRevocationList:
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "fleet")])
    builder = x509.CertificateRevocationListBuilder().issuer_name(name)
    builder = builder.last_update(bench.NOW).next_update(bench.NOW + timedelta(days=30))
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    return builder.sign(key, algorithm)
