"""The rules of an access file in the words of Mosquitto: its ACL file and its password file.

What they cannot say, and Mosquitto therefore does not enforce: who may publish at a topic may also retain there and
leave a last will there; a SUBSCRIBE is always granted, and what may not be received is then not delivered.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from broker.access import Action

if TYPE_CHECKING:
    from collections.abc import Iterator

    from broker.access import Access, Identity

_HEAD: Final = "# Rendered from an access file; changes made here are lost."


def mosquitto_acl(access: Access) -> str:
    """Return the ACL file (mosquitto.conf(5), `acl_file`): a block for each identity, and nothing for anybody else."""
    return "\n".join([_HEAD, *(line for identity in access.identities for line in _block(access, identity))]) + "\n"


def mosquitto_passwords(access: Access) -> str:
    """Return the password file (mosquitto_passwd(1)) of the identities that have one."""
    return "".join(f"{one.name}:{one.password}\n" for one in access.identities if one.password is not None)


def _block(access: Access, identity: Identity) -> Iterator[str]:
    yield ""
    yield f"# {identity.role}"
    yield f"user {identity.name}"
    for rule in access.rules(identity):
        publishes, receives = Action.PUBLISH in rule.may or Action.WILL in rule.may, Action.RECEIVE in rule.may
        if publishes or receives:
            yield f"topic {'readwrite' if publishes and receives else 'write' if publishes else 'read'} {rule.topic}"
