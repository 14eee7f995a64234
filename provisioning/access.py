"""Who may do what: the one table that the rules of every broker are rendered from. Pure.

It is the protocol's table of topics (`docs/protocol.md`) read from each role's side. What is not in it is forbidden.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from broker.access import NAME, Access, Action, Identity, Rule
from provisioning.role import Role
from schemas.topics import DEFAULT_ROOT, Family, Topics

if TYPE_CHECKING:
    from collections.abc import Iterable

_Table = tuple[tuple[Family, dict[str, str], tuple[Action, ...]], ...]
"""Families of topics, which of the names in them are the identity's own, and what may be done there."""

_PUBLISH: Final = (Action.PUBLISH,)
_RETAIN: Final = (Action.PUBLISH, Action.RETAIN)
_READ: Final = (Action.SUBSCRIBE, Action.RECEIVE)

_DEVICE: Final[_Table] = (
    (Family.DEVICE_STATE, {"device": NAME}, (*_RETAIN, Action.WILL, *_READ)),
    (Family.SESSION, {"device": NAME}, (*_RETAIN, *_READ)),
    (Family.DRAFT, {"device": NAME}, _PUBLISH),
    (Family.VERDICT, {"device": NAME}, _READ),
    (Family.ASK, {"device": NAME}, _READ),
    (Family.CANCEL, {"device": NAME}, _READ),
    (Family.ANSWER, {"device": NAME}, _PUBLISH),
    (Family.VERIFIER_STATE, {}, _READ),
)
_VERIFIER: Final[_Table] = (
    (Family.VERIFIER_STATE, {"verifier": NAME}, (*_RETAIN, Action.WILL, *_READ)),
    (Family.SESSION, {}, _READ),
    (Family.DRAFT, {"verifier": NAME}, _READ),
    (Family.VERDICT, {}, _PUBLISH),
)
_APP: Final[_Table] = (
    (Family.DEVICE_STATE, {}, _READ),
    (Family.VERIFIER_STATE, {}, _READ),
    (Family.ASK, {}, _PUBLISH),
    (Family.CANCEL, {}, _PUBLISH),
    (Family.ANSWER, {}, _READ),
)
_OPERATOR: Final[_Table] = (
    (Family.DEVICE_STATE, {}, _READ),
    (Family.VERIFIER_STATE, {}, _READ),
    (Family.ENROL_REQUEST, {}, _READ),
    (Family.ENROL_ANSWER, {}, _PUBLISH),
)
_ENROLMENT: Final[_Table] = (
    (Family.ENROL_REQUEST, {"identity": NAME}, _PUBLISH),
    (Family.ENROL_ANSWER, {"identity": NAME}, _READ),
)
"""For every identity: certificates are renewed where they are enrolled."""
_SWEEPER: Final[_Table] = tuple(
    (family, {}, _RETAIN) for family in Family if family not in {Family.ENROL_REQUEST, Family.ENROL_ANSWER}
)


def access(identities: Iterable[Identity], root: str = DEFAULT_ROOT) -> Access:
    """Return the rules of all roles, with those who hold them.

    Brokers are left out: they are nobody's clients.

    Args:
        identities: names with their roles (`provisioning.role.Role`); bootstrap identities among them, as long as their
            tokens are good.
        root: of all topics.

    Raises:
        AccessInvalid: a name is no name, or is there twice.
        InvalidTopic: the root is no topic.
    """
    known = sorted(
        (identity for identity in identities if identity.role != Role.BROKER), key=lambda one: (one.role, one.name)
    )
    return Access(1, {role.value: rules for role, rules in _roles(root).items()}, tuple(known)).check()


def _roles(root: str) -> dict[Role, tuple[Rule, ...]]:
    own = _rules(_ENROLMENT, root)
    # It looks at everything once, and may be told to clear whatever nobody can read.
    everything = Rule(f"{Topics(root).root}/#", _READ)
    return {
        Role.DEVICE: (*_rules(_DEVICE, root), *own),
        Role.VERIFIER: (*_rules(_VERIFIER, root), *own),
        Role.APP: (*_rules(_APP, root), *own),
        Role.OPERATOR: (*_rules(_OPERATOR, root), *own),
        Role.SWEEPER: (everything, *_rules(_SWEEPER, root), *own),
        Role.ENROLMENT: own,
    }


def _rules(table: _Table, root: str) -> tuple[Rule, ...]:
    return tuple(Rule(_pattern(family, names, root), may) for family, names, may in table)


def _pattern(family: Family, names: dict[str, str], root: str) -> str:
    """Return the filter of a family; a name that is not given may be any."""
    levels = (
        names.get(level.strip("{}"), "+") if level.startswith("{") else level for level in family.value.split("/")
    )
    return "/".join((Topics(root).root, *levels))
