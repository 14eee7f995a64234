"""The rules in the words of Mosquitto's dynamic security plugin.

Unlike the ACL file it refuses subscriptions. It has no words for retaining and for last wills either: who may publish
at a topic may do both there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec

from broker.access import Action
from broker.password import check_hash

if TYPE_CHECKING:
    from broker.access import Access, Identity

_DEFAULTS: Final = {"publishClientSend": False, "publishClientReceive": False, "subscribe": False, "unsubscribe": True}
_TYPES: Final = {
    Action.PUBLISH: "publishClientSend",
    Action.RECEIVE: "publishClientReceive",
    Action.SUBSCRIBE: "subscribePattern",
}


def render_dynsec(access: Access) -> str:
    """Return the plugin's file (`plugin_opt_config_file`). Nobody in it may change it over MQTT."""
    document = {
        "defaultACLAccess": _DEFAULTS,
        "clients": [_client(identity) for identity in access.identities],
        "groups": [],
        "roles": [_role(access, identity) for identity in access.identities],
    }
    return msgspec.json.format(msgspec.json.encode(document), indent=1).decode() + "\n"


def _client(identity: Identity) -> dict[str, Any]:
    client: dict[str, Any] = {"username": identity.name, "roles": [{"rolename": _role_name(identity)}]}
    if identity.password is not None:
        parts = check_hash(identity.password)
        client |= {"password": parts.hash, "salt": parts.salt, "iterations": parts.iterations}
    return client


def _role(access: Access, identity: Identity) -> dict[str, Any]:
    acls = [
        {"acltype": _TYPES[action], "topic": rule.topic, "priority": 0, "allow": True}
        for rule in access.rules(identity)
        for action in rule.may
        if action in _TYPES
    ]
    return {"rolename": _role_name(identity), "acls": acls}


def _role_name(identity: Identity) -> str:
    # One for each: the plugin cannot put a client's name into a topic.
    return f"{identity.role} {identity.name}"
