"""Writes the contract down for other languages: one JSON Schema per message and one AsyncAPI document.

Both are generated from the structs, so they cannot drift from what the codec does:

    python -m schemas.document            writes schemas/asyncapi.yaml and schemas/json/*.json
    python -m schemas.document --check    exits 1 and names the files that are stale

Data-plane messages are msgpack arrays. Their schemas describe the array item by item, in order, each with the name of
its field as title; byte strings appear as base64, as JSON has no bytes. AsyncAPI builds on JSON Schema draft 07, the
files in schemas/json are of draft 2020-12; `_draft_07` holds all that differs.
"""

from __future__ import annotations

import inspect
import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import yaml

from schemas import enrolment, limits, messages
from schemas.messages import VERSION
from schemas.topics import DEFAULT_ROOT, Family

if TYPE_CHECKING:
    from collections.abc import Iterator

Schema = dict[str, Any]
Message = type[messages.DataMessage | messages.JsonMessage | enrolment.EnrolmentRequest | enrolment.EnrolmentAnswer]

FOLDER = Path(__file__).parent
COMMAND = "python -m schemas.document"


class Channel(NamedTuple):
    """Who says what to whom on the topics of a family.

    Attributes:
        plain: what plain text on the topic means; empty where it means nothing.
        reply: the family that answers.
    """

    family: Family
    sender: str
    receivers: tuple[str, ...]
    description: str
    messages: tuple[Message, ...]
    retain: bool = False
    plain: str = ""
    reply: Family | None = None


# fmt: off
CHANNELS = (
    Channel(
        Family.DEVICE_STATE, "agent", ("agent", "verifier", "app"),
        "A device announces itself, on every connect and as its last will.",
        (messages.AgentState,), retain=True,
    ),
    Channel(
        Family.SESSION, "agent", ("agent", "verifier"),
        "The context of a session. An empty retained payload clears it: the session has ended or is cancelled. "
        "Only the agent clears it; on every connect it reads its own and clears those it does not know.",
        (messages.SessionContext,), retain=True,
    ),
    Channel(
        Family.DRAFT, "agent", ("verifier",),
        "A device sends its draft bundles to the verifier that serves the session.",
        (messages.DraftBundle,), reply=Family.VERDICT,
    ),
    Channel(
        Family.VERDICT, "verifier", ("agent",),
        "Verifiers answer the draft bundles of a device.",
        (messages.Verdict, messages.Resync, messages.Refusal),
    ),
    Channel(
        Family.VERIFIER_STATE, "verifier", ("verifier", "agent", "app"),
        "A verifier announces itself, on every connect, while it works, and as its last will.",
        (messages.VerifierState,), retain=True,
    ),
    Channel(
        Family.ASK, "app", ("agent",),
        "An app asks a device for an answer.",
        (messages.Ask,), reply=Family.ANSWER,
        plain="The prompt. What begins with `{` is JSON. As text carries no id, it may be answered twice.",
    ),
    Channel(
        Family.CANCEL, "app", ("agent",),
        "An app ends a request early.",
        (messages.Cancel,), plain="The id of the request.",
    ),
    Channel(
        Family.ANSWER, "agent", ("app",),
        "The answer to a request, as it grows.",
        (messages.TokenEvent, messages.ReviseEvent, messages.DoneEvent, messages.ErrorEvent),
    ),
    Channel(
        Family.ENROL_REQUEST, "machine", ("operator",),
        "A machine asks for a certificate, with a token's bootstrap identity or with the certificate it has.",
        (enrolment.EnrolmentRequest,), reply=Family.ENROL_ANSWER,
    ),
    Channel(
        Family.ENROL_ANSWER, "operator", ("machine",),
        "The operator's side gives a machine its certificate, or says why not.",
        (enrolment.CertificateIssued, enrolment.EnrolmentRefused),
    ),
)
# fmt: on

_STRUCTS = vars(messages) | vars(enrolment)

MESSAGES = tuple(message for channel in CHANNELS for message in channel.messages)

_NAME = "1 to 63 lower-case letters, digits and hyphens, beginning with a letter or digit."
_PARAMETERS: dict[str, Schema] = {
    "device": {"description": f"Id of a device: {_NAME}", "examples": ["pi-7"]},
    "verifier": {"description": f"Id of a verifier: {_NAME}", "examples": ["desk"]},
    "session": {"description": "Id of a session: 16 lower-case hexadecimal digits.", "examples": ["00c0ffee00c0ffee"]},
    "request": {
        "description": "Id of a request: 1 to 64 letters, digits, hyphens and underscores.",
        "examples": ["question-1"],
    },
    "identity": {
        "description": f"Name in the certificate that a machine is connected with. A machine's: {_NAME} A token's: "
        "`enroll.` and 16 lower-case hexadecimal digits.",
        "examples": ["pi-7", "enroll.00c0ffee00c0ffee"],
    },
}


def generate() -> dict[str, str]:
    """Return the text of every generated file by its path below `FOLDER`."""
    files = {f"json/{message.__name__}.json": _json_text(json_schema(message)) for message in MESSAGES}
    files["asyncapi.yaml"] = f"# Generated by `{COMMAND}`; do not edit.\n{_yaml_text(asyncapi())}"
    return files


def stale(folder: Path = FOLDER) -> list[str]:
    """Return the generated files in `folder` that are missing, differ, or belong to no message any more."""
    files = generate()
    found = {f"json/{path.name}" for path in (folder / "json").glob("*.json")}
    differ = {name for name, text in files.items() if _read(folder / name) != text}
    return sorted(differ | (found - files.keys()))


def write(folder: Path = FOLDER) -> None:
    """Bring the generated files in `folder` up to date."""
    files = generate()
    for name in stale(folder):
        path = folder / name
        if name in files:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(files[name].encode())
        else:
            path.unlink()


def json_schema(message: Message) -> Schema:
    """Return the JSON Schema 2020-12 of one message, with everything it refers to under `$defs`."""
    definitions = _definitions((message,), "#/$defs/{name}")
    top = definitions.pop(message.__name__)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$comment": f"Generated by `{COMMAND}`; do not edit. A payload has at most {message.limit} bytes.",
        **top,
        **({"$defs": definitions} if definitions else {}),
    }


def asyncapi() -> Schema:
    """Return the AsyncAPI 3.0.0 document of the protocol."""
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "SLED",
            "version": f"{VERSION}.0.0",
            "description": (
                "Speculative decoding split between devices and verifiers, over MQTT 3.1.1 or 5.\n\n"
                f"The root `{DEFAULT_ROOT}` is configurable. Data-plane messages are msgpack arrays, all others JSON. "
                "Unknown fields are tolerated (in arrays: after the last known one); another major version is "
                "refused. Durations are integer microseconds counted from receipt. All publications and "
                "subscriptions are of QoS 1, but for an agent's subscriptions to what is retained; messages may come "
                "late, twice and out of order."
            ),
            "license": {"name": "Apache-2.0"},
        },
        "channels": {_camel(channel.family): _channel(channel) for channel in CHANNELS},
        "operations": dict(_operations()),
        "components": {
            "messages": dict(_messages()),
            "parameters": _PARAMETERS,
            "schemas": {
                name: _draft_07(schema)
                for name, schema in _definitions(MESSAGES, "#/components/schemas/{name}").items()
            },
        },
        "x-limits": {
            name.lower().replace("_", "-"): value for name, value in vars(limits).items() if isinstance(value, int)
        },
    }


def _channel(channel: Channel) -> Schema:
    names = [message.__name__ for message in channel.messages]
    if channel.plain:
        names.append(f"{names[0]}Text")
    return {
        "address": f"{DEFAULT_ROOT}/{channel.family.value}",
        "description": channel.description,
        "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in names},
        "parameters": {
            name: {"$ref": f"#/components/parameters/{name}"} for name in re.findall(r"{(\w+)}", channel.family.value)
        },
    }


def _operations() -> Iterator[tuple[str, Schema]]:
    for channel in CHANNELS:
        target = _camel(channel.family)
        for action, role in [("send", channel.sender), *(("receive", role) for role in channel.receivers)]:
            # Queued for an agent that is away, what is retained would take the place of asks.
            qos = 0 if (action, role) == ("receive", "agent") and channel.retain else 1
            operation: Schema = {
                "action": action,
                "channel": {"$ref": f"#/channels/{target}"},
                "tags": [{"name": role}],
                "bindings": {"mqtt": {"qos": qos, "retain": channel.retain, "bindingVersion": "0.2.0"}},
            }
            if channel.reply:
                operation["reply"] = {"channel": {"$ref": f"#/channels/{_camel(channel.reply)}"}}
            yield f"{role}{action.title()}s{target[0].upper()}{target[1:]}", operation


def _messages() -> Iterator[tuple[str, Schema]]:
    for channel in CHANNELS:
        for message in channel.messages:
            name = message.__name__
            yield (
                name,
                {
                    "title": name,
                    "summary": _doc(message)[0].split("\n\n")[0].replace("\n", " "),
                    "contentType": f"application/{'vnd.msgpack' if message.__struct_config__.array_like else 'json'}",
                    "payload": {"$ref": f"#/components/schemas/{name}"},
                    "x-max-bytes": message.limit,
                },
            )
            if channel.plain:
                yield f"{name}Text", _plain_text(channel, message)


def _plain_text(channel: Channel, message: Message) -> Schema:
    size = {"minLength": 1, "maxLength": limits.MAX_PROMPT_CHARACTERS}
    return {
        "title": f"{message.__name__}Text",
        "summary": channel.plain,
        "contentType": "text/plain",
        "payload": {"type": "string"}
        | (size if channel.family is Family.ASK else {"pattern": "^[A-Za-z0-9_-]{1,64}$"}),
        "x-max-bytes": message.limit,
    }


def _definitions(structs: tuple[Message, ...], reference: str) -> dict[str, Schema]:
    """Return the schemas of structs and of all structs they hold, by name, with the words of their docstrings."""
    _, components = msgspec.json.schema_components(structs, ref_template=reference)
    return {name: _definition(_STRUCTS[name], schema) for name, schema in components.items()}


def _definition(struct: type[msgspec.Struct], schema: Schema) -> Schema:
    description, words = _doc(struct)
    schema = _tidy(schema) | {"description": description}
    if "prefixItems" in schema:
        named = zip(struct.__struct_fields__, schema["prefixItems"], strict=True)
        schema["prefixItems"] = [{"title": name, **_field(name, item, words.get(name, ""))} for name, item in named]
    else:
        fields = schema["properties"].items()
        schema["properties"] = {name: _field(name, item, words.get(name, "")) for name, item in fields}
    return schema


def _field(name: str, schema: Schema, words: str) -> Schema:
    if name == "version":
        return {"description": "major version of the protocol; another one is refused", "const": VERSION}
    meaning = "; ".join(text for text in (words.rstrip("."), schema.pop("description", "")) if text)
    if "$ref" in schema:  # draft 07 ignores what stands beside a reference
        schema["allOf"] = [{"$ref": schema.pop("$ref")}]
    return ({"description": meaning} if meaning else {}) | schema


def _tidy(schema: Any) -> Any:
    """Return what msgspec wrote in the words of the specification; msgspec writes patterns for Python."""
    match schema:
        case {"enum": [value]}:
            return {"const": value}
        case {"pattern": str(pattern), **rest}:
            return _tidy(rest) | {"pattern": pattern.replace(r"\A", "^").replace(r"\Z", "$")}
        case {"contentEncoding": "base64", "minLength": _}:
            others = {key: value for key, value in schema.items() if key != "contentEncoding"}
            words = f"{others['description']}; {limits.ID_BYTES} bytes in msgpack, base64 here"
            return others | {"description": words, "contentEncoding": "base64"}
        case dict():
            return {key: _tidy(value) for key, value in schema.items()}
        case list():
            return [_tidy(value) for value in schema]
        case _:
            return schema


def _draft_07(schema: Any) -> Any:
    """Return a 2020-12 schema in draft 07, where the items of a tuple are called `items`."""
    match schema:
        case {"prefixItems": list(items), **rest}:
            return _draft_07(rest) | {"items": [_draft_07(item) for item in items], "additionalItems": True}
        case dict():
            return {key: _draft_07(value) for key, value in schema.items()}
        case list():
            return [_draft_07(value) for value in schema]
        case _:
            return schema


def _doc(struct: type[msgspec.Struct]) -> tuple[str, dict[str, str]]:
    """Return the prose of a struct's docstring, and what its `Attributes` section says of each field."""
    prose, _, section = inspect.cleandoc(struct.__doc__ or "").partition("\n\nAttributes:\n")
    entries = re.findall(r"^ {4}(\w[\w, ]*): (.*(?:\n {8}.*)*)", section, flags=re.MULTILINE)
    return prose, {name: re.sub(r"\s+", " ", words) for names, words in entries for name in names.split(", ")}


def _camel(family: Family) -> str:
    first, *rest = family.name.lower().split("_")
    return first + "".join(word.title() for word in rest)


def _json_text(schema: Schema) -> str:
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


class _Dumper(yaml.SafeDumper):
    """Writes every value out, without anchors, and text of several paragraphs as blocks."""

    def ignore_aliases(self, _data: object) -> bool:
        return True


def _paragraphs(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _paragraphs)


def _yaml_text(document: Schema) -> str:
    return yaml.dump(document, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


def _read(path: Path) -> str | None:
    return path.read_bytes().decode() if path.is_file() else None


def main(arguments: list[str]) -> None:
    """Write the files, or with `--check` exit 1 if any is stale."""
    match arguments:
        case []:
            write()
        case ["--check"]:
            if names := stale():
                sys.exit(f"stale: {', '.join(f'schemas/{name}' for name in names)}; run `{COMMAND}` and commit")
        case _:
            sys.exit(f"usage: {COMMAND} [--check]")


if __name__ == "__main__":
    main(sys.argv[1:])
