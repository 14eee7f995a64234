"""Who may do what at a broker: roles, their rules, and the identities that hold them. Pure.

`provisioning.access` says what the rules are; this file says what a rule means. A broker of this system decides by it,
and the files for other brokers are rendered from it.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Final, Literal

from msgspec import Struct

from broker.errors import BrokerError
from broker.password import check_hash

NAME: Final = "{name}"
"""Stands in a rule's topic for the name of the identity."""
VISITOR: Final = ".visit"
"""What a client's visitor has behind the client's name; see `broker.visit`."""

# What neither quoting rules nor line ends of any broker's file can be broken with.
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,126}")
_LEVEL: Final = re.compile(r"\{name\}|[A-Za-z0-9_.$-]+")


class AccessInvalid(BrokerError):
    """An access file is not what it must be."""


class Action(StrEnum):
    """What a client may want to do at a topic."""

    PUBLISH = "publish"
    RETAIN = "retain"
    """Have the broker keep what is published; means something beside `publish` or `will` only."""
    WILL = "will"
    """Leave it as last will."""
    SUBSCRIBE = "subscribe"
    RECEIVE = "receive"


class Rule(Struct, frozen=True, forbid_unknown_fields=True):
    """What a role may do at some topics.

    Attributes:
        topic: a topic filter (MQTT 3.1.1, 4.7); `{name}` stands for the identity's name.
        may: what may be done there.
    """

    topic: str
    may: tuple[Action, ...]


class Identity(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Somebody who may connect.

    Attributes:
        name: user name, client id and the common name of the certificate.
        role: whose rules apply.
        password: hash of its password (`broker.password`); None for an identity that has a certificate.
    """

    name: str
    role: str
    password: str | None = None


class Access(Struct, frozen=True, forbid_unknown_fields=True):
    """All rules and identities of a broker; what is not allowed is forbidden.

    Attributes:
        version: of this format.
        roles: role → its rules.
        identities: no two with the same name.
    """

    version: Literal[1]
    roles: dict[str, tuple[Rule, ...]]
    identities: tuple[Identity, ...]

    def check(self) -> Access:
        """Return this, if it makes sense.

        Raises:
            AccessInvalid: it does not; the sentence says why.
        """
        for role, rules in self.roles.items():
            for rule in rules:
                _check_topic(role, rule.topic)
        seen: set[str] = set()
        for identity in self.identities:
            if not _NAME.fullmatch(identity.name) or identity.name.endswith(VISITOR):
                raise AccessInvalid(
                    f"{identity.name[:80]!r} cannot be the name of an identity: use up to 127 letters, digits, hyphens "
                    f"and dots, beginning with a letter or digit and not ending with {VISITOR!r}"
                )
            if identity.name in seen:
                raise AccessInvalid(
                    f"two identities are named {identity.name!r}: names are unique, whatever the role; rename one"
                )
            if identity.role not in self.roles:
                raise AccessInvalid(
                    f"{identity.name!r} has the role {identity.role!r}, which has no rules: "
                    f"there are {', '.join(sorted(self.roles))}"
                )
            if identity.password is not None:
                try:
                    check_hash(identity.password)
                except ValueError as error:
                    raise AccessInvalid(f"the password of {identity.name!r} cannot be used: {error}") from None
            seen.add(identity.name)
        return self

    def rules(self, identity: Identity) -> tuple[Rule, ...]:
        """Return the rules of an identity, its name put in."""
        return tuple(Rule(rule.topic.replace(NAME, identity.name), rule.may) for rule in self.roles[identity.role])


class Rulebook:
    """Answers whether an identity may do something."""

    def __init__(self, access: Access) -> None:
        self._identities = {identity.name: identity for identity in access.check().identities}
        self._rules = {
            name: {
                action: tuple(tuple(rule.topic.split("/")) for rule in access.rules(identity) if action in rule.may)
                for action in Action
            }
            for name, identity in self._identities.items()
        }

    def identity(self, name: str) -> Identity | None:
        """Return the identity of this name."""
        return self._identities.get(name)

    def may(self, name: str | None, action: Action, topic: str) -> bool:
        """Whether an identity may do something at a topic, or subscribe to a filter.

        A filter is allowed if everything that it matches is.
        """
        rules = self._rules.get(name) if name is not None else None
        if rules is None:
            return False
        levels = topic.split("/")
        return any(_covers(allowed, levels) for allowed in rules[action])


def client_id(name: str, asked: str) -> str:
    """Return the client id of a connection: the name of the identity, whatever the client asked for.

    Its visitor has a session of its own, so that it neither ends the client's connection nor its session.
    """
    return name + VISITOR if asked.endswith(VISITOR) else name


def _covers(allowed: tuple[str, ...], asked: list[str]) -> bool:
    """Whether everything that one filter (or topic) matches is matched by another."""
    if asked[0].startswith("$") and allowed[0] in ("+", "#"):
        return False  # MQTT-4.7.2-1
    for index, level in enumerate(allowed):
        if level == "#":
            return True
        if index == len(asked) or asked[index] == "#" or level not in ("+", asked[index]):
            return False
    return len(allowed) == len(asked)


def _check_topic(role: str, topic: str) -> None:
    levels = topic.split("/")
    last = len(levels) - 1
    for index, level in enumerate(levels):
        if not (level == "+" or (level == "#" and index == last) or _LEVEL.fullmatch(level)):
            raise AccessInvalid(
                f"a rule of the role {role!r} has the topic {topic[:200]!r}, which is no topic filter: use letters, "
                f"digits, hyphens, '+' for one level, '#' for the rest, and {NAME} for the identity's name"
            )
