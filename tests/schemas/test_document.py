"""The generated documents say what the codec does, and are up to date."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import jsonschema  # type: ignore[import-untyped]
import msgspec
import pytest
import yaml
from hypothesis import given

from schemas import document, limits
from schemas.codec import encode
from schemas.topics import Family, Topics
from tests.schemas.samples import (
    BUNDLE,
    DATA,
    REFUSAL,
    SESSION,
    data_messages,
    json_messages,
    patient,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from schemas.messages import DataMessage, JsonMessage

ASYNCAPI: dict[str, Any] = yaml.safe_load(document.generate()["asyncapi.yaml"])
SCHEMAS: dict[str, Any] = {message.__name__: document.json_schema(message) for message in document.MESSAGES}
VALIDATORS = {name: jsonschema.Draft202012Validator(schema) for name, schema in SCHEMAS.items()}


def as_json(message: DataMessage | JsonMessage) -> Any:
    """The message as JSON shows it: byte strings in base64."""
    return msgspec.json.decode(msgspec.json.encode(message))


def references(node: Any) -> Iterator[str]:
    match node:
        case {"$ref": str(target)}:
            yield target
        case dict():
            for value in node.values():
                yield from references(value)
        case list():
            for value in node:
                yield from references(value)


def resolve(target: str) -> Any:
    node: Any = ASYNCAPI
    for step in target.removeprefix("#/").split("/"):
        node = node[step]
    return node


def test_generated_files_are_up_to_date() -> None:
    """If this fails, run `python -m schemas.document` and commit what it writes."""
    assert document.stale() == []


def test_generate_is_deterministic() -> None:
    assert document.generate() == document.generate()


def test_write_into_empty_folder(tmp_path: Path) -> None:
    assert set(document.stale(tmp_path)) == set(document.generate())
    document.write(tmp_path)
    assert document.stale(tmp_path) == []


def test_stale_names_what_differs(tmp_path: Path) -> None:
    document.write(tmp_path)
    verdict = tmp_path / "json" / "Verdict.json"
    verdict.write_text(verdict.read_text() + "\n")
    (tmp_path / "json" / "Gossip.json").write_text("{}")
    (tmp_path / "asyncapi.yaml").unlink()
    assert document.stale(tmp_path) == ["asyncapi.yaml", "json/Gossip.json", "json/Verdict.json"]
    document.write(tmp_path)
    assert document.stale(tmp_path) == []


def test_check_of_stale_file(monkeypatch: pytest.MonkeyPatch) -> None:
    document.main(["--check"])
    monkeypatch.setattr(document, "stale", lambda: ["json/Verdict.json"])
    with pytest.raises(SystemExit, match=r"stale: schemas/json/Verdict\.json; run `python -m schemas\.document`"):
        document.main(["--check"])


def test_main_with_unknown_argument() -> None:
    with pytest.raises(SystemExit, match="usage"):
        document.main(["--chekc"])


@pytest.mark.parametrize("name", SCHEMAS)
def test_json_schema_is_valid_and_self_contained(name: str) -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMAS[name])
    definitions = SCHEMAS[name].get("$defs", {})
    assert {target.removeprefix("#/$defs/") for target in references(SCHEMAS[name])} == set(definitions)


@pytest.mark.parametrize("name", SCHEMAS)
def test_json_schema_patterns_are_for_every_language(name: str) -> None:
    r"""ECMA 262, which JSON Schema asks for, has no `\A` and no `\Z`."""
    assert not re.search(r'"pattern": "[^"]*\\\\[AZ]', json.dumps(SCHEMAS[name]))


@pytest.mark.parametrize("message", DATA, ids=lambda message: message.kind)
def test_json_schema_names_the_items_of_arrays(message: DataMessage) -> None:
    items = SCHEMAS[type(message).__name__]["prefixItems"]
    assert [item["title"] for item in items] == list(message.__struct_fields__)


def test_json_schema_tells_what_the_docstring_tells() -> None:
    draft = SCHEMAS["DraftBundle"]["prefixItems"][8]
    assert draft["description"] == "draft token ids; may be empty"
    epoch = SCHEMAS["Refusal"]["prefixItems"][5]
    assert epoch["description"] == "what was refused, as far as it could be read"
    assert "Attributes" not in json.dumps(SCHEMAS)


@patient
@given(data_messages | json_messages)
def test_json_schema_accepts_every_message(message: DataMessage | JsonMessage) -> None:
    VALIDATORS[type(message).__name__].validate(as_json(message))


@pytest.mark.parametrize(
    ("message", "place", "value"),
    [
        (BUNDLE, 0, 2),
        (BUNDLE, 1, "verdict"),
        (BUNDLE, 2, "c2hvcnQ="),
        (BUNDLE, 3, [1]),
        (BUNDLE, 6, -1),
        (BUNDLE, 8, [2**31]),
        (BUNDLE, 8, [0] * (limits.MAX_DRAFT_TOKENS + 1)),
        (REFUSAL, 2, "no_code"),
        (REFUSAL, 3, 7),
        (REFUSAL, 5, "epoch"),
    ],
)
def test_json_schema_refuses_what_the_codec_refuses(message: DataMessage, place: int, value: object) -> None:
    array = as_json(message)
    array[place] = value
    assert not VALIDATORS[type(message).__name__].is_valid(array)


def test_json_schema_tolerates_unknown_fields() -> None:
    VALIDATORS["DraftBundle"].validate([*as_json(BUNDLE), "new", {}])
    VALIDATORS["Cancel"].validate({"id": "q-1", "why": "bored"})


def test_asyncapi_references_exist() -> None:
    for target in references(ASYNCAPI):
        assert resolve(target)


def test_asyncapi_has_a_channel_for_every_family() -> None:
    names = {"device": "pi-7", "verifier": "desk", "session": SESSION.hex(), "request": "q-1", "identity": "pi-7"}
    addresses = [channel["address"] for channel in ASYNCAPI["channels"].values()]
    assert [Topics().parse(address.format(**names)).family for address in addresses] == [
        channel.family for channel in document.CHANNELS
    ]
    assert {channel.family for channel in document.CHANNELS} == set(Family)
    for channel in ASYNCAPI["channels"].values():
        assert set(channel["parameters"]) == set(re.findall(r"{(\w+)}", channel["address"]))


def test_asyncapi_has_every_message() -> None:
    found = ASYNCAPI["components"]["messages"]
    for message in document.MESSAGES:
        entry = found[message.__name__]
        assert entry["x-max-bytes"] == message.limit
        array = message.__struct_config__.array_like
        assert entry["contentType"] == ("application/vnd.msgpack" if array else "application/json")
    assert {name for name in found if found[name]["contentType"] == "text/plain"} == {"AskText", "CancelText"}


def test_asyncapi_operations_of_each_role() -> None:
    """Every topic has one sender, somebody listens, and only announcements and contexts are retained."""
    operations = ASYNCAPI["operations"].values()
    retained = {"deviceState", "session", "verifierState"}
    for name in ASYNCAPI["channels"]:
        own = [operation for operation in operations if operation["channel"]["$ref"] == f"#/channels/{name}"]
        assert [operation["action"] for operation in own].count("send") == 1
        assert "receive" in [operation["action"] for operation in own]
        for operation in own:
            mqtt = operation["bindings"]["mqtt"]
            told = name in retained and operation["action"] == "receive" and operation["tags"] == [{"name": "agent"}]
            assert (mqtt["qos"], mqtt["retain"]) == (0 if told else 1, name in retained)
    roles = {tag["name"] for operation in operations for tag in operation["tags"]}
    assert roles == {"agent", "verifier", "app", "machine", "operator"}


@pytest.mark.parametrize("message", DATA, ids=lambda message: message.kind)
def test_asyncapi_payload_in_draft_07_accepts_message(message: DataMessage) -> None:
    """AsyncAPI builds on draft 07, where a tuple is written in another way."""
    name = type(message).__name__
    schema = {"$ref": f"#/components/schemas/{name}", "components": ASYNCAPI["components"]}
    validator = jsonschema.Draft7Validator(schema)
    array = as_json(message)
    validator.validate(array)
    assert not validator.is_valid([*array[:2], "short", *array[3:]])
    assert validator.is_valid([*array, "new"])
    assert len(encode(message)) <= ASYNCAPI["components"]["messages"][name]["x-max-bytes"]


def test_asyncapi_lists_the_limits() -> None:
    assert ASYNCAPI["x-limits"]["max-draft-tokens"] == limits.MAX_DRAFT_TOKENS
    assert ASYNCAPI["x-limits"]["id-bytes"] == limits.ID_BYTES
