"""The rules for each kind of broker, as the files that it reads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, assert_never

from msgspec import Struct

from broker.access_file import encode_access
from broker.mosquitto_rules import mosquitto_acl, mosquitto_passwords
from provisioning.render_dynsec import render_dynsec
from provisioning.render_emqx import render_emqx

if TYPE_CHECKING:
    from broker.access import Access

Target = Literal["embedded", "mosquitto", "mosquitto-dynsec", "emqx"]


class Rendered(Struct, frozen=True):
    """A file to write.

    Attributes:
        name: of the file.
        text: what is in it.
        secret: whether it holds hashes of passwords, and so nobody else may read it.
    """

    name: str
    text: str
    secret: bool


def render(access: Access, target: Target) -> tuple[Rendered, ...]:
    """Return the files that tell a broker who may do what.

    Args:
        access: of `provisioning.access`, or of an access file.
        target: `embedded` is also what `sled broker` reads, whichever broker it runs.
    """
    passwords = any(identity.password is not None for identity in access.identities)
    match target:
        case "embedded":
            return (Rendered("access.json", encode_access(access), passwords),)
        case "mosquitto":
            acl = Rendered("mosquitto.acl", mosquitto_acl(access), secret=False)
            if not passwords:
                return (acl,)
            return (acl, Rendered("mosquitto.passwords", mosquitto_passwords(access), secret=True))
        case "mosquitto-dynsec":
            return (Rendered("dynamic-security.json", render_dynsec(access), passwords),)
        case "emqx":
            return (Rendered("acl.conf", render_emqx(access), secret=False),)
        case _:
            assert_never(target)
