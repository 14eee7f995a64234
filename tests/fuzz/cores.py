"""What comes of messages that can be read: in a session of an agent, in a verifier's ledger, in a spool, at an app."""

from __future__ import annotations

from contextlib import closing

from edge_agent.intake import AskError, spooled
from edge_agent.spool import Spool
from schemas import codec
from schemas.errors import WireError
from schemas.limits import MAX_CONTEXT_TOKENS
from schemas.messages import DataMessage, DraftBundle, Refusal, Resync, SessionContext, Verdict
from sled.transcript import Transcript
from tests.edge_agent import machine
from tests.edge_agent.test_intake import DIGEST, TEMPLATE, bytewise
from tests.fuzz.target import Target
from tests.schemas import samples
from tests.verifier import bench


def targets() -> list[Target]:
    """Return all of them."""
    told: tuple[DataMessage, ...] = (
        machine.verdict(1, (21, 22, 23), accepted=2),
        machine.resync(),
        machine.refusal(),
        machine.refusal(number=1),
    )
    asked: tuple[DataMessage, ...] = (
        bench.context(2, 1, committed=(21,)),
        bench.bundle(1, (21, 22)),
        bench.bundle(2, run=4),
    )
    wire = (WireError,)
    legal_json = samples.json_messages.map(codec.encode_json)
    asks = (b"Why?", b'{"id":"q1","messages":[{"role":"user","content":"Why?\\n"}],"stop":["."],"temperature":1.5}')
    return [
        Target("session of an agent", _tell, wire, tuple(map(codec.encode, told))),
        Target("ledger of a verifier", _hear, wire, tuple(map(codec.encode, asked))),
        Target("ask, spooled", Asked().take, (WireError, AskError), asks, legal_json, weight=2),
        Target("answer at an app", _read, wire, tuple(map(codec.encode_json, samples.EVENTS)), legal_json),
    ]


def _tell(payload: bytes) -> object:
    """Tell a session that awaits a verdict; its log stays a text that the target's vocabulary has words for."""
    awaiting = machine.awaiting(23)
    effects = awaiting.tell(codec.decode(payload, Verdict, Resync, Refusal))
    assert len(awaiting.committed) <= machine.MAX_TOKENS
    return effects


def _hear(payload: bytes) -> object:
    """Tell a ledger that serves a session; the engine is given nothing that would end it."""
    serving = bench.serving()
    message = codec.decode(payload, SessionContext, DraftBundle)
    heard = serving.context(message) if isinstance(message, SessionContext) else serving.bundle(message)
    for work in serving.ledger.ready():
        assert len(work.sequence) <= bench.CONTEXT_LENGTH
        assert all(0 <= token < bench.VOCABULARY for token in work.sequence)
        serving.ledger.start(work)
    return heard, serving.tick(1e6)


class Asked:
    """What a device makes of an ask, down to its spool."""

    def __init__(self) -> None:
        self._tokenizer = bytewise(TEMPLATE)

    def take(self, payload: bytes) -> object:
        """Take one in."""
        ask = codec.decode_ask(payload)
        request = spooled(ask, ask.id or "q1", self._tokenizer, DIGEST, max_tokens=256)
        assert len(request.prompt) + request.max_tokens <= MAX_CONTEXT_TOKENS
        with closing(Spool(None)) as spool:
            spool.add(request)
            return spool.find(request.id)


def _read(payload: bytes) -> object:
    transcript = Transcript(revise=True)
    return [transcript.take(event) for event in (codec.decode_event(payload),) * 2]
