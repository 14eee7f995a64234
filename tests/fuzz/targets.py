"""Everything that reads what came from outside: its samples, and the errors it may answer with."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from benchmarks.kit.error import BenchError
from benchmarks.kit.faults.plan import DEFAULT, read_plan
from benchmarks.kit.prompts import read_prompts
from benchmarks.kit.record import read_record
from broker.access import AccessInvalid
from broker.access import Identity as Known
from broker.access_file import encode_access, read_access
from broker.address import parse_addresses
from edge_agent.placement import Placement
from models.error import ModelError
from models.seal import check_seal
from provisioning import access, certificate, enrolment, keys, registry, token
from provisioning.errors import ProvisioningError
from provisioning.identity_folder import Identity, IdentityFolder, Place
from provisioning.published import PublishedAuthority
from provisioning.signing_request import make_signing_request, read_signing_request
from schemas import codec
from schemas import enrolment as messages
from schemas.errors import InvalidTopic, WireError
from schemas.messages import AgentState, DraftBundle, Refusal, Resync, SessionContext, Verdict, VerifierState
from schemas.topics import Topics
from sled import config
from sled.checks.connection import judge_announcements
from sled.sweeper import Sweeper
from tests.fuzz import cores, lists, packets
from tests.fuzz.target import Target
from tests.provisioning import bench
from tests.schemas import samples

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.fuzz.target import Read

TOPICS = Topics()


def targets(folder: Path) -> list[Target]:
    """Return all of them.

    Args:
        folder: an empty one, for those that read files.
    """
    return [
        *(*_wire(), *_topics(), *_enrolment(), *_pem(), *_files(folder)),
        *(*packets.targets(), *cores.targets(), *lists.targets(folder)),
    ]


def _wire() -> list[Target]:
    data = tuple(codec.encode(message) for message in samples.DATA)
    events = tuple(codec.encode_json(event) for event in samples.EVENTS)
    agent = b'{"version":1,"status":"online","boot":"ab","drafter":"d","tokenizer":"9f","release":"0.1"}'
    verifier = (
        b'{"version":1,"status":"online","boot":"ab","target":"t","tokenizer":"9f","capacity":4,"end_tokens":[2]}'
    )
    asks = (
        b"Why is the sky blue?",
        b'{"id":"q1","messages":[{"role":"user","content":"Why?"}],"max_tokens":9,"temperature":0.8,"stop":["."]}',
    )
    legal_data, legal_json = samples.data_messages.map(codec.encode), samples.json_messages.map(codec.encode_json)
    to_verifier = partial(_decode, SessionContext, DraftBundle)
    to_agent = partial(_decode, Verdict, Resync, Refusal)
    wire = (WireError,)
    return [
        Target("to a verifier", to_verifier, wire, data, legal_data, 8),
        Target("to an agent", to_agent, wire, data, legal_data, 8),
        Target("agent state", partial(_state, AgentState), wire, (agent,), legal_json),
        Target("verifier state", partial(_state, VerifierState), wire, (verifier,), legal_json),
        Target("ask", codec.decode_ask, wire, asks, legal_json),
        Target("id of an ask", codec.ask_id, (), asks, legal_json),
        Target("cancel", codec.decode_cancel, wire, (b"q1", b'{"id":"q1"}'), legal_json),
        Target("answer event", codec.decode_event, wire, events, legal_json),
        Target("announcement, agent", _announce, wire, (verifier,), legal_json),
        Target("announcement, doctor", _judge, (), (verifier,), legal_json),
        Target("retained, sweeper", _sweep, (), (*data, agent, verifier), legal_data),
    ]


def _decode(*args: Any) -> object:
    *structs, payload = args
    return codec.decode(payload, *structs)


def _state(struct: Any, payload: bytes) -> object:
    return codec.decode_state(payload, struct)


def _announce(payload: bytes) -> object:
    placement = Placement("pi", "9f")
    placement.announce("desk", codec.decode_state(payload, VerifierState), 0.0)
    return placement.pick(1.0), placement.misfit()


def _judge(payload: bytes) -> object:
    return judge_announcements(
        {TOPICS.verifier_state("desk"): payload, payload.decode(errors="replace"): b"{}"}, "sled/v1"
    )


def _sweep(payload: bytes) -> object:
    sweeper = Sweeper(TOPICS, offline_after=60, malformed=True)
    for topic in (TOPICS.session("pi", bytes(8)), TOPICS.device_state("pi"), TOPICS.verifier_state("desk")):
        sweeper.seen(topic, payload, retain=True, now=0.0)
    return list(sweeper.due(1e9))


def _topics() -> list[Target]:
    names = (
        *(TOPICS.session("pi", bytes(8)), TOPICS.draft("pi", "desk"), TOPICS.verdict("pi"), TOPICS.answer("pi", "q1")),
        *(TOPICS.verifier_state("desk"), TOPICS.enrol_request("enroll.0123456789abcdef"), TOPICS.ask("pi")),
    )
    paths = tuple(name.encode() for name in names)
    addresses = (b"mqtts://user:p%40ss@host.example:8883", b"[::1]:1883", b"mqtt5://a,mqtt5://b:1", b"127.0.0.1:1883")
    return [
        Target("topic", lambda raw: TOPICS.parse(_text(raw)), (InvalidTopic,), paths),
        Target(
            "topic of a request", lambda raw: messages.asking_identity("sled/v1", _text(raw)), (InvalidTopic,), paths
        ),
        Target("root", lambda raw: Topics(_text(raw)), (InvalidTopic,), (b"sled/v1", b"a/b/c")),
        Target("broker address", lambda raw: parse_addresses(_text(raw)), (ValueError,), addresses),
    ]


def _text(raw: bytes) -> str:
    return raw.decode(errors="replace")


def _enrolment() -> list[Target]:
    authority = bench.make_authority()
    book, identity, asking = bench.with_token(bench.registered("pi"), authority, "pi")
    machine = bench.machine(authority)
    book = bench.noted(book, "pi", machine)
    key = keys.generate()
    requests = (bench.request_of("pi", asking, key), bench.request_of("pi", machine, key))
    decided = [
        enrolment.decide(book, authority, name, request, bench.terms())
        for name, request in zip((identity, "pi"), requests, strict=True)
    ]
    answers = tuple(messages.encode_enrolment(decision.answer) for decision in decided)
    ticket = token.Ticket("pi", "mqtts://desk", "sled/v1", authority.certificate, asking.certificate, asking.key)
    signed = tuple(certificate.to_pem(known.certificate).encode() for known in (machine, asking, authority))
    refused = (ProvisioningError,)

    def decide(payload: bytes) -> object:
        # Whatever comes, the operator's side answers, and its answer can be sent.
        decision = enrolment.decide(book, authority, "pi", payload, bench.terms())
        return messages.encode_enrolment(decision.answer)

    def accept(pem: bytes) -> object:
        return enrolment.accept(pem, "pi", machine.key.public_key(), authority.certificate, bench.NOW)

    return [
        Target("enrolment request", messages.decode_request, (WireError,), requests),
        Target("enrolment answer", messages.decode_answer, (WireError,), answers),
        Target("answer to a machine", lambda raw: enrolment.read_answer(raw, "q1"), (WireError, *refused), answers),
        Target("operator's decision", decide, (), requests, weight=3),
        Target("certificate that came", accept, refused, signed, weight=3),
        Target("token", lambda raw: token.decode(_text(raw)), refused, (token.encode(ticket).encode(),), weight=3),
        Target("registry", registry.decode, refused, (registry.encode(book), registry.encode(decided[0].registry))),
    ]


def _pem() -> list[Target]:
    authority = bench.make_authority()
    machine = bench.machine(authority)
    certificates = tuple(certificate.to_pem(known.certificate).encode() for known in (machine, authority))
    csr = make_signing_request("pi", machine.key).encode()
    plain, locked = keys.to_pem(machine.key), keys.to_pem(machine.key, b"open sesame")

    def judge(pem: bytes) -> object:
        read = certificate.read_certificate(pem, "it")
        certificate.check(read, authority.certificate, bench.NOW)
        return certificate.role_of(read), certificate.public_key_of(read), certificate.name_of(read)

    refused = (ProvisioningError,)
    return [
        Target("certificate", judge, refused, certificates),
        Target("chain", lambda pem: certificate.read_chain(pem, "it"), refused, (b"".join(certificates),)),
        Target("signing request", read_signing_request, refused, (csr,)),
        Target("private key", lambda pem: keys.from_pem(pem, "it"), refused, (plain, plain + certificates[0])),
        # A passphrase costs what it should, so few of these.
        Target("locked key", lambda pem: keys.from_pem(pem, "it", b"open sesame"), refused, (locked,), weight=1),
    ]


def _files(folder: Path) -> list[Target]:
    place = IdentityFolder(folder / "identity")
    place.path.mkdir(mode=0o700)
    authority = bench.make_authority()
    machine = bench.machine(authority)
    place.install(Identity(machine.certificate, machine.key, authority.certificate), Place("pi", "mqtts://desk"))
    identity, trusted, where = (
        file.read_bytes() for file in (place.identity_file, place.authority_file, place.place_file)
    )
    ruled = encode_access(access.access([Known("pi", "device"), Known("desk", "verifier")])).encode()
    refused = (ProvisioningError,)
    made = [
        Target("identity file", _over(place.identity_file, identity, place.identity), refused, (identity,), weight=2),
        Target("authority file", _over(place.authority_file, trusted, place.identity), refused, (trusted,), weight=2),
        Target("enrolment file", _over(place.place_file, where, place.place), refused, (where,), weight=2),
        Target("access file", _file(folder / "access.json", read_access), (AccessInvalid,), (ruled,), weight=2),
        Target("plan", _file(folder / "plan.yaml", read_plan), (BenchError,), _plans(), weight=2),
        Target(
            "prompts", _file(folder / "prompts", partial(read_prompts, limit=None)), (BenchError,), _PROMPTS, weight=2
        ),
        Target("record", _file(folder / "record", read_record), (BenchError,), _RECORDS, weight=2),
        Target("terms of a fleet", _file(folder / "fleet.json", _root), refused, (b'{"root": "sled/v1"}',), weight=2),
        Target("seal", _file(folder / "sled.json", _seal), (ModelError,), _SEALS, weight=2),
    ]
    return [*made, *(_config(role) for role in config.ROLES)]


def _root(path: Path) -> object:
    return PublishedAuthority(path.parent).root


def _seal(path: Path) -> object:
    return check_seal(path.parent)


def _config(role: str) -> Target:
    given = b"broker: mqtts://desk\nroot: sled/v1\n"
    more = {"agent": b"device: pi\ndrafter:\n  - lookup\nthreads: 2\n", "verifier": b"name: desk\ncapacity: 4\n"}
    valid = more.get(role, b"") + (given if role in more else b"")
    return Target(
        f"{role} configuration",
        lambda raw: config.parse(raw, "it", role),
        (config.ConfigError,),
        (valid, *_BOMBS),
        weight=3,
    )


_PROMPTS = (b'{"prompt": "Why?", "source": "math", "answer": [1, {"a": null}]}\n\n{"prompt": "x"}\n',)
_RECORDS = (b'{"proposals":[{"confidence":0.5,"entropy":null,"source":"d","more":[[1]]}],"accepted":1}\n' * 2,)
_SEALS = (
    b'{"source":"s","version":"1","sha256":{}}',
    b'{"source":"s","version":"1","sha256":{"model.safetensors":"00","../x":"1"},"more":{}}',
)
_BOMBS = (
    b"a: &a [x,x,x,x,x,x,x,x,x]\n"
    + b"".join(b"%c: &%c [%s]\n" % (98 + n, 98 + n, b",".join([b"*%c" % (97 + n)] * 9)) for n in range(8)),
    b"&a [*a]\n",
    b"<<: &a {<<: *a}\n",
)
"""A billion laughs, and knots."""


def _plans() -> tuple[bytes, ...]:
    small = b"devices: 2\nfaults:\n  - {fault: kill, role: agent, at: [1, 2]}\n  - {fault: delay, seconds: 0.1}\n"
    return DEFAULT.read_bytes(), small, *_BOMBS


def _file(path: Path, read: Callable[[Path], object]) -> Read:
    def written(payload: bytes) -> object:
        path.write_bytes(payload)
        return read(path)

    return written


def _over(path: Path, good: bytes, read: Callable[[], object]) -> Read:
    """Put the input in the place of a file of the identity, and the good one back."""

    def written(payload: bytes) -> object:
        path.write_bytes(payload)
        try:
            return read()
        finally:
            path.write_bytes(good)

    return written
