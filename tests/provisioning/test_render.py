"""The rules as the files of each broker: `golden/` holds what is rendered for a small fleet."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import pytest

from broker.access import AccessInvalid, Identity
from broker.password import hash_password
from provisioning.access import access
from provisioning.render import Target, render
from provisioning.role import Role
from schemas.errors import InvalidTopic
from tests.provisioning.matrix import matrix_access, read_matrix

GOLDEN = Path(__file__).with_name("golden")
FLEET = access(
    [
        Identity("pi-1", Role.DEVICE),
        Identity("gpu-1", Role.VERIFIER),
        Identity("phone", Role.APP, hash_password("secret", salt=b"salt", iterations=1)),
        Identity("olga", Role.OPERATOR),
        Identity("broom", Role.SWEEPER),
        Identity("broker", Role.BROKER),
        Identity("enroll.0011223344556677", Role.ENROLMENT),
    ]
)


@pytest.mark.parametrize("target", get_args(Target))
def test_golden(target: Target) -> None:
    """A change of what is rendered is seen. To write the files anew, delete them and run this test."""
    for file in render(FLEET, target):
        golden = GOLDEN / file.name
        if not golden.exists():
            GOLDEN.mkdir(exist_ok=True)
            golden.write_text(file.text)
            pytest.fail(f"{golden.name} was not there; it is now: look at it and run again")
        assert file.text == golden.read_text()


def test_secrets() -> None:
    """Files that hold hashes of passwords are marked, and only they."""
    secret = {file.name for target in get_args(Target) for file in render(FLEET, target) if file.secret}
    assert secret == {"access.json", "mosquitto.passwords", "dynamic-security.json"}
    bare = access([Identity("pi-1", Role.DEVICE)])
    files = [file for target in get_args(Target) for file in render(bare, target)]
    assert {file.name for file in files} == {"access.json", "mosquitto.acl", "dynamic-security.json", "acl.conf"}
    assert not any(file.secret for file in files)


def test_root() -> None:
    """Another root is in every topic."""
    ours = access([Identity("pi-1", Role.DEVICE)], "home/sled")
    assert all(rule.topic.startswith("home/sled/") for rules in ours.roles.values() for rule in rules)
    with pytest.raises(InvalidTopic):
        access([], "home/#")


def test_names_are_unique() -> None:
    """A device and an app cannot share a name."""
    with pytest.raises(AccessInvalid, match="two identities are named 'pi'"):
        access([Identity("pi", Role.DEVICE), Identity("pi", Role.APP)])


def test_order_does_not_matter() -> None:
    """The same fleet is the same file."""
    identities = [Identity("b", Role.DEVICE), Identity("a", Role.APP), Identity("a-1", Role.DEVICE)]
    assert access(identities) == access(reversed(identities))


class Emqx:
    """Reads an authorisation file as EMQX's documentation and source have it."""

    def __init__(self, text: str) -> None:
        terms = re.sub(r"^%%.*$", "", text, flags=re.MULTILINE)
        who, action = r"\{'and'.*?\}\]\}", r"subscribe|publish|\{publish, \[\{retain, false\}\]\}"
        rule = rf"\{{allow, ({who}), ({action}), \[(.*?)\]\}}\."
        self._rules = [
            (re.findall(r'\{(username|clientid), "(.*?)"\}', who), action, re.findall(r'"(.*?)"', topics))
            for who, action, topics in re.findall(rule, terms, flags=re.DOTALL)
        ]
        assert re.sub(rule, "", terms, flags=re.DOTALL).split() == ["{deny,", "all}."]

    def may(self, name: str, client: str, action: str, topic: str, *, retain: bool = False) -> bool:
        client_of = {"username": name, "clientid": client}
        return any(
            all(client_of[kind] == value for kind, value in who)
            and (acts == action or (acts.startswith("{publish") and action == "publish" and not retain))
            and any(self._fits(topic.split("/"), pattern.split("/")) for pattern in patterns)
            for who, acts, patterns in self._rules
        )

    @staticmethod
    def _fits(topic: list[str], pattern: list[str]) -> bool:
        if pattern[-1] == "#":
            topic, pattern = topic[: len(pattern) - 1], pattern[:-1]
        return len(topic) == len(pattern) and all(
            other in ("+", level) for level, other in zip(topic, pattern, strict=True)
        )


@pytest.mark.parametrize("name", read_matrix().roles)
def test_matrix_on_emqx_as_documented(name: str) -> None:
    """The expectations of `access_matrix.yaml`, by what EMQX's documentation says: it was not run on an EMQX."""
    matrix = read_matrix()
    (file,) = render(matrix_access(matrix), "emqx")
    emqx, expected = Emqx(file.text), matrix.expected("emqx", name)
    topics, filters = list(matrix.cells[name]), list(matrix.filters[name])
    assert {topic for topic in topics if emqx.may(name, name, "publish", topic)} == expected["p"]
    assert {topic for topic in topics if emqx.may(name, name, "publish", topic, retain=True)} == expected["r"]
    looser = {one for one in filters if one.endswith("/#") and one.removesuffix("#") + "+" in expected["s"]}
    subscribed = {topic for topic in [*topics, *filters] if emqx.may(name, name, "subscribe", topic)}
    assert subscribed == expected["s"] | looser
    assert not any(emqx.may(name, "another", "publish", topic) for topic in topics)
