"""A role's configuration file: YAML, checked key by key; what is wrong is said with file, line and key.

Keys are the long options of the role's command, without the hyphens in front. What such a file says stands in for the
option: the command line goes first, then the environment, then the file.
"""

from __future__ import annotations

import difflib
import re
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, NoReturn, get_args, get_origin

import msgspec
import yaml
from msgspec import Meta, Struct

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from yaml.nodes import MappingNode, Node

MOST_BYTES: Final = 65_536
MOST_DEPTH: Final = 4
"""Levels of nesting; the keys need two."""
MOST_NODES: Final = 2_000

_LISTS: Final = frozenset({"drafter"})
"""Keys that may have several values; of one alone a list is made."""

_Text = Annotated[str, Meta(min_length=1)]
_Count = Annotated[int, Meta(ge=1)]
_Seconds = Annotated[float, Meta(ge=0)]
_Port = Annotated[int, Meta(ge=0, le=65_535)]
_File = Annotated[str, Meta(pattern="^/", description="an absolute path")]
_Texts = _Text | Annotated[tuple[_Text, ...], Meta(min_length=1)]


class ConfigError(Exception):
    """A configuration file cannot be used; the sentence names file, line and key."""


class AgentConfig(Struct, frozen=True, forbid_unknown_fields=True, rename="kebab", omit_defaults=True):
    """`agent.yaml`: the options of `sled agent`."""

    device: _Text | None = None
    broker: _Text | None = None
    root: _Text | None = None
    identity: _File | None = None
    drafter: _Texts | None = None
    tokenizer: _File | None = None
    policy: _Text | None = None
    record: _File | None = None
    target: _Text | None = None
    threads: _Count | None = None
    spool: _File | None = None
    max_tokens: _Count | None = None
    max_queue: _Count | None = None
    run_tokens: Annotated[int, Meta(ge=0, le=1024)] | None = msgspec.field(default=None, name="run")
    outage: Literal["stall", "release", "revise"] | None = None
    outage_failures: _Count | None = None
    outage_window: Annotated[float, Meta(ge=0.1)] | None = None
    metrics: _Text | None = None


class VerifierConfig(Struct, frozen=True, forbid_unknown_fields=True, rename="kebab", omit_defaults=True):
    """`verifier.yaml`: the options of `sled verifier`."""

    name: _Text | None = None
    broker: _Text | None = None
    root: _Text | None = None
    identity: _File | None = None
    target: _Text | None = None
    dtype: Literal["auto", "float32", "bfloat16"] | None = None
    device: _Text | None = None
    kv_budget: Annotated[float, Meta(ge=0.01, le=1e6)] | None = None
    threads: _Count | None = None
    capacity: _Count | None = None
    batching: _Text | None = None
    drain: _Seconds | None = None
    metrics: _Text | None = None


class BrokerConfig(Struct, frozen=True, forbid_unknown_fields=True, rename="kebab", omit_defaults=True):
    """`broker.yaml`: the options of `sled broker`."""

    engine: Literal["auto", "mosquitto", "embedded"] | None = None
    host: _Text | None = None
    port: _Port | None = None
    state: _File | None = None
    cert: _File | None = None
    key: _File | None = None
    ca: _File | None = None
    crl: _File | None = None
    access: _File | None = None
    identity: _File | None = None


ROLES: Final[dict[str, type[Struct]]] = {"agent": AgentConfig, "verifier": VerifierConfig, "broker": BrokerConfig}


def read(path: Path, role: str) -> dict[str, Any]:
    """Return what a role's file says, by the names of the command's parameters.

    Raises:
        ConfigError: it cannot be read, is no such file, or says what cannot be; the sentence names file, line and key.
    """
    try:
        with path.open("rb") as file:
            text = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"the configuration {path} cannot be read ({error.strerror}): check the path") from error
    return parse(text, str(path), role)


def parse(text: bytes, name: str, role: str) -> dict[str, Any]:
    """Return what a role's file says; see `read`.

    Args:
        text: of the file.
        name: of the file, for sentences.
        role: a key of ROLES.

    Raises:
        ConfigError: as `read`.
    """
    return _Reading(name, role).parse(text)


class _Reading:
    """The reading of one file.

    Args:
        name: of the file.
        role: whose it is.
    """

    def __init__(self, name: str, role: str) -> None:
        self._name = name
        self._role = role
        fields = msgspec.structs.fields(ROLES[role])
        self._fields = {field.encode_name: field.name for field in fields}
        self._choices = {field.encode_name: _choices(field.type) for field in fields}
        self._nodes = 0
        self._depth = 0

    def parse(self, text: bytes) -> dict[str, Any]:
        if len(text) > MOST_BYTES:
            self._fail(1, None, f"the file has more than {MOST_BYTES} bytes: it cannot be a configuration")
        root = self._compose(text)
        if root is None:
            return {}
        if not isinstance(root, yaml.MappingNode):
            self._fail(_line(root), None, "the file must hold keys with values, as in `max-tokens: 256`")
        found = self._keys(root)
        values = {key: self._value(node) for key, node in found.items()}
        self._check(values, found)
        return {
            self._fields[key]: [value] if key in _LISTS and isinstance(value, str) else value
            for key, value in values.items()
        }

    def _compose(self, text: bytes) -> Node | None:
        """Parse the text, without building anything of what it says."""
        try:
            for event in yaml.parse(text, Loader=yaml.SafeLoader):
                self._bound(event)
            root: Node | None = yaml.compose(text, Loader=yaml.SafeLoader)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            self._fail(1 if mark is None else mark.line + 1, None, f"this is not YAML: {error.problem or error}")
        except (yaml.YAMLError, UnicodeError, ValueError, RecursionError) as error:
            self._fail(1, None, f"this is not YAML: {' '.join(str(error).split())[:200]}")
        return root

    def _bound(self, event: yaml.Event) -> None:
        """Refuse what no configuration needs, before anything is built of it: a short text can mean gigabytes."""
        line = 1 if event.start_mark is None else event.start_mark.line + 1
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            self._fail(line, None, "anchors and aliases (& and *) are not used here: write the value out")
        tag = getattr(event, "tag", None)
        if tag is not None:
            self._fail(line, None, f"the tag {tag[:80]!r} is not used here: leave it out")
        if isinstance(event, yaml.DocumentStartEvent) and self._nodes:
            self._fail(line, None, "a second document begins: write one only")
        if isinstance(event, yaml.NodeEvent):
            self._nodes += 1
            if self._nodes > MOST_NODES:
                self._fail(line, None, f"there are more than {MOST_NODES} values: this cannot be a configuration")
        if isinstance(event, yaml.CollectionStartEvent):
            self._depth += 1
            if self._depth > MOST_DEPTH:
                self._fail(line, None, "values are nested too deeply")
        elif isinstance(event, yaml.CollectionEndEvent):
            self._depth -= 1

    def _keys(self, root: MappingNode) -> dict[str, Node]:
        found: dict[str, Node] = {}
        lines: dict[str, int] = {}
        for key_node, node in root.value:
            line = _line(key_node)
            key = key_node.value if isinstance(key_node, yaml.ScalarNode) else None
            if not isinstance(key, str) or key_node.tag != "tag:yaml.org,2002:str":
                self._fail(line, None, "a key must be a word, as in `max-tokens: 256`")
            if key in found:
                self._fail(line, key, f"is there twice, first in line {lines[key]}: leave one of them out")
            if key not in self._fields:
                self._fail(line, key, f"is no key of {self._role}.yaml{self._meant(key)}")
            found[key], lines[key] = node, line
        return found

    def _meant(self, key: str) -> str:
        close = difflib.get_close_matches(key.lower().replace("_", "-"), self._fields, n=1, cutoff=0.6)
        if close:
            return f": did you mean {close[0]!r}?"
        return f": there are {', '.join(sorted(self._fields))}"

    def _value(self, node: Node) -> object:
        try:
            return yaml.SafeLoader("").construct_document(node)
        except (yaml.YAMLError, ValueError, TypeError, OverflowError) as error:
            self._fail(_line(node), None, f"this value cannot be read: {' '.join(str(error).split())[:200]}")

    def _check(self, values: Mapping[str, object], nodes: Mapping[str, Node]) -> None:
        for key, value in values.items():
            if value is None:
                self._fail(_line(nodes[key]), key, "has no value: give one, or leave the key out")
            try:
                msgspec.convert({key: value}, ROLES[self._role])
            except msgspec.ValidationError as error:
                what, _, where = str(error).partition(" - at `$")
                self._wrong(key, value, nodes[key], what, where)
            check = _checks().get((self._role, key)) or _checks().get(("", key))
            if check is None:
                continue
            for part, node in _parts(value, nodes[key]):
                try:
                    check(part)
                except Exception as error:  # noqa: BLE001 -- each part of the system has its own errors, all sentences
                    self._fail(_line(node), key, str(error))

    def _wrong(self, key: str, value: object, node: Node, what: str, where: str) -> NoReturn:
        """Say in our words what msgspec has found, in the item of a list that it speaks of."""
        item = re.search(r"\[(\d+)\]", where)
        if item and isinstance(value, list) and isinstance(node, yaml.SequenceNode):
            value, node = value[int(item[1])], node.value[int(item[1])]
        choices = self._choices[key]
        quotes = " (put it in quotes)" if "`str" in what and not isinstance(value, str) else ""
        plain = f"must be one of {', '.join(choices)}" if choices else _plain(what)
        self._fail(_line(node), key, f"{plain}, and not {_shown(value)}{quotes}")

    def _fail(self, line: int, key: str | None, what: str) -> NoReturn:
        raise ConfigError(f"{self._name}:{line}: {what if key is None else f'{key}: {what}'}") from None


def _checks() -> dict[tuple[str, str], Callable[[Any], object]]:
    """Return what the values of some keys must be able to do; for one role, or (empty) for all."""
    return {
        ("", "broker"): _broker,
        ("", "root"): _root,
        ("agent", "device"): _name,
        ("verifier", "name"): _name,
        ("agent", "policy"): _policy,
        ("agent", "drafter"): _drafter,
        ("verifier", "batching"): _batching,
    }


def _broker(text: str) -> object:
    from broker.address import parse_addresses  # noqa: PLC0415 -- only what the file speaks of is imported

    return parse_addresses(text)


def _root(text: str) -> object:
    from schemas.topics import Topics  # noqa: PLC0415

    return Topics(text)


def _name(text: str) -> object:
    from schemas.topics import check_name  # noqa: PLC0415

    return check_name(text)


def _policy(text: str) -> object:
    from edge_agent.policy import parse_policy  # noqa: PLC0415

    return parse_policy(text)


def _drafter(text: str) -> object:
    from edge_agent.drafters.spec import parse_drafter  # noqa: PLC0415

    return parse_drafter(text)


def _batching(text: str) -> object:
    from verifier.batching import parse_batching  # noqa: PLC0415

    return parse_batching(text)


def _line(node: Node) -> int:
    return int(node.start_mark.line) + 1


def _choices(kind: Any) -> tuple[str, ...]:
    """Return the values of a type that has only some; none for any other."""
    return next((get_args(part) for part in get_args(kind) if get_origin(part) is Literal), ())


def _parts(value: object, node: Node) -> list[tuple[object, Node]]:
    if isinstance(value, list) and isinstance(node, yaml.SequenceNode):
        return list(zip(value, node.value, strict=True))
    return [(value, node)]


_WORDS: Final = {
    "`str | array`": "a text or a list of texts",
    "`str`": "a text",
    "`int`": "a whole number",
    "`float`": "a number",
    "`array`": "a list",
}


def _plain(sentence: str) -> str:
    """Put msgspec's words into ours."""
    if "matching regex" in sentence:
        return "must be an absolute path"
    sentence = re.sub(r", got `.*`$", "", sentence).replace(" | null`", "`").replace("Expected", "must be")
    for theirs, ours in _WORDS.items():
        sentence = sentence.replace(theirs, ours)
    return sentence.replace("a text of length >= 1", "a text that is not empty").replace(
        "of length >= 1", "of one or more"
    )


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
