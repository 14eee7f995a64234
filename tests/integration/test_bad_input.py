"""Whatever reaches a role from outside gets a clear error, and nobody else notices."""

from __future__ import annotations

import queue
from contextlib import contextmanager
from typing import TYPE_CHECKING

import msgspec
import pytest

from broker.client import Bridge
from schemas import codec
from schemas.digest import Log, tokenizer_digest
from schemas.messages import (
    VERSION,
    Ask,
    DoneEvent,
    DraftBundle,
    Epoch,
    ErrorEvent,
    Refusal,
    Resync,
    SessionContext,
    Verdict,
)
from schemas.topics import Topics
from tests.integration.fleet import Fleet, alone, answer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from broker.message import Message
    from sled.reference import Reference

TOPICS = Topics()
SESSION = b"intruder"
EPOCH = Epoch(1, b"n" * 8)


class Stranger:
    """A device that speaks for itself, byte by byte."""

    device = "stranger"

    def __init__(self, bridge: Bridge) -> None:
        self.bridge = bridge
        self.replies: queue.Queue[Message] = queue.Queue()
        bridge.subscribe(TOPICS.verdict(self.device), self.replies.put)

    def say(self, payload: bytes) -> None:
        self.bridge.publish(TOPICS.draft(self.device, "verifier"), payload)

    def context(self, payload: bytes, session: bytes = SESSION) -> None:
        self.bridge.publish(TOPICS.session(self.device, session), payload, retain=True)

    def reply(self) -> Verdict | Resync | Refusal:
        return codec.decode(self.replies.get(timeout=10).payload, Verdict, Resync, Refusal)


@contextmanager
def stranger(fleet: Fleet) -> Iterator[Stranger]:
    """A stranger that knows the verifier is there."""
    bridge = Bridge(fleet.address)
    someone = Stranger(bridge)
    with bridge, fleet.client() as client:
        bridge.wait_up(10)
        assert client.wait_online(devices=0, verifiers=1, timeout=20)
        yield someone


def bundle(**changes: object) -> DraftBundle:
    log = Log((1, 2, 3))
    valid = DraftBundle(VERSION, "draft", SESSION, EPOCH, 0, 1, 0, log.digest(), (4, 5))
    return msgspec.structs.replace(valid, **changes)


def context(fleet: Fleet, **changes: object) -> SessionContext:
    digest = tokenizer_digest(fleet.tokenizer.canonical_json)
    valid = SessionContext(VERSION, "context", SESSION, EPOCH, 0, "verifier", digest, (1, 2, 3), (), 20)
    return msgspec.structs.replace(valid, **changes)


VALID = codec.encode(bundle())
BAD_BUNDLES = {
    "empty": (b"", "truncated"),
    "truncated": (VALID[:-4], "truncated"),
    "not msgpack": (b"\xc1" * 20, "malformed"),
    "oversized": (b"\x00" * 100_000, "too_large"),
    "wrong version": (msgspec.msgpack.encode([2, "draft"]), "unsupported_version"),
    "wrong kind": (msgspec.msgpack.encode([1, "verdict"]), "unexpected_kind"),
    "wrong type": (msgspec.msgpack.encode([1, "draft", "session"]), "invalid_field"),
    "negative token": (msgspec.msgpack.encode(bundle(draft=(-1,))), "invalid_field"),
}


@pytest.mark.parametrize("case", BAD_BUNDLES)
def test_bad_bundle_is_refused_to_its_sender(fleet: Fleet, case: str) -> None:
    payload, code = BAD_BUNDLES[case]
    fleet.verifier()
    with stranger(fleet) as someone:
        someone.say(payload)
        refusal = someone.reply()
    assert isinstance(refusal, Refusal)
    assert refusal.code == code
    assert refusal.sentence


def test_unknown_session_is_asked_for(fleet: Fleet) -> None:
    fleet.verifier()
    with stranger(fleet) as someone:
        someone.say(VALID)
        resync = someone.reply()
    assert isinstance(resync, Resync)
    assert resync.reason == "unknown_session"


def test_bundles_that_do_not_fit_the_log_are_told_so(fleet: Fleet) -> None:
    """Token out of vocabulary, base ahead, wrong digest, stale epoch, same counter of another boot: one session."""
    fleet.verifier()
    with stranger(fleet) as someone:
        someone.context(codec.encode(context(fleet, epoch=Epoch(5, b"n" * 8))))
        fresh = {"epoch": Epoch(5, b"n" * 8)}
        cases: list[tuple[DraftBundle, str]] = [
            (bundle(draft=(4, 99_999), **fresh), "token_out_of_vocabulary"),
            (bundle(base=7, round=2, **fresh), "base_ahead"),
            (bundle(digest=b"x" * 8, round=3, revision=1, **fresh), "digest_differs"),
            (bundle(round=4, epoch=Epoch(4, b"n" * 8)), "stale_epoch"),
            (bundle(round=5, epoch=Epoch(5, b"m" * 8)), "epoch_conflict"),
        ]
        for sent, told in cases:
            if told == "digest_differs":  # one Resync a revision
                someone.context(codec.encode(context(fleet, epoch=Epoch(5, b"n" * 8), revision=1)))
            someone.say(codec.encode(sent))
            reply = someone.reply()
            assert not isinstance(reply, Verdict)
            assert told == (reply.reason if isinstance(reply, Resync) else reply.code)
        someone.say(codec.encode(bundle(round=6, **fresh)))
        verdict = someone.reply()
        assert isinstance(verdict, Verdict)
        assert verdict.round == 6
        # An exact duplicate and an older round change nothing; the log may answer, always with the same tokens.
        someone.say(codec.encode(bundle(round=6, **fresh)))
        someone.say(codec.encode(bundle(round=1, draft=(), **fresh)))
        for _ in range(2):
            again = someone.reply()
            assert isinstance(again, Verdict)
            assert again.tokens == verdict.tokens
        someone.context(b"")


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"prompt": ()}, "empty_prompt"),
        ({"prompt": (1,) * 590}, "prompt_too_long"),
        ({"prompt": (1, 320)}, "token_out_of_vocabulary"),
        ({"tokenizer": "another"}, "tokenizer_mismatch"),
    ],
)
def test_context_that_cannot_be_served_is_refused(fleet: Fleet, changes: dict[str, object], code: str) -> None:
    fleet.verifier()
    with stranger(fleet) as someone:
        someone.context(codec.encode(context(fleet, **changes)))
        refusal = someone.reply()
        someone.context(b"")
    assert isinstance(refusal, Refusal)
    assert (refusal.code, refusal.session) == (code, SESSION)


def test_garbage_does_not_disturb_an_answer(fleet: Fleet, reference: Reference) -> None:
    """While a device is answering, a stranger throws everything bad at its verifier and at itself."""
    fleet.verifier()
    fleet.agent()
    with stranger(fleet) as someone, fleet.client() as client:
        events = client.ask("pi", Ask(prompt="abc", max_tokens=60), timeout=30)
        tokens: list[int] = []
        for event in events:
            assert not isinstance(event, ErrorEvent)
            if not isinstance(event, DoneEvent):
                tokens += event.tokens
            for payload, _ in BAD_BUNDLES.values():
                someone.say(payload)
                someone.context(payload, b"\x00" * 8)
            someone.bridge.publish(TOPICS.verdict("pi"), b"\xff\xff")
            someone.bridge.publish(TOPICS.ask("pi"), b"\xff\xfe not text")
            someone.bridge.publish(TOPICS.cancel("pi"), b"no such request")
            someone.bridge.publish(TOPICS.verifier_state("other"), b"{")
        someone.context(b"", b"\x00" * 8)
        assert tuple(tokens) == alone(reference, "abc", 60)[0]
        assert answer(client, "pi", Ask(prompt="def", max_tokens=10))[0] == alone(reference, "def", 10)[0]


@pytest.mark.parametrize(
    ("payload", "code"),
    [
        (b"", "invalid_field"),
        (b"   \n", "invalid_field"),
        (b"caf\xe9", "not_utf8"),
        (b'{"prompt": "abc"', "malformed"),
        (b'{"prompt": ""}', "invalid_field"),
        (b'{"prompt": 7}', "invalid_field"),
        (b'{"prompt": "abc", "temperature": -1}', "invalid_field"),
        (b'{"prompt": "abc", "max_tokens": 0}', "invalid_field"),
        (b'{"prompt": "abc", "messages": [{"role": "user", "content": "abc"}]}', "invalid_field"),
        (b"x" * 500_000, "too_large"),
    ],
)
def test_bad_ask_is_answered_with_an_error(fleet: Fleet, payload: bytes, code: str) -> None:
    fleet.agent()
    answers: queue.Queue[Message] = queue.Queue()
    app = Bridge(fleet.address)
    app.subscribe(TOPICS.answer("pi", "+"), answers.put)
    with app, fleet.client() as client:
        app.wait_up(10)
        assert client.wait_online(verifiers=0, timeout=10)
        app.publish(TOPICS.ask("pi"), payload)
        event = codec.decode_event(answers.get(timeout=10).payload)
    assert isinstance(event, ErrorEvent)
    assert event.code == code
    assert event.message
