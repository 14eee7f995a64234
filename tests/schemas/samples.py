"""Messages to test with: one full sample of each kind, and hypothesis strategies for all legal ones."""

from __future__ import annotations

from typing import get_args

from hypothesis import settings
from hypothesis import strategies as st

from schemas import codec, limits
from schemas.errors import PayloadTooLarge, UnexpectedKind
from schemas.messages import (
    VERSION,
    AgentState,
    AnswerEvent,
    Ask,
    Cancel,
    ChatMessage,
    DataMessage,
    DoneEvent,
    DraftBundle,
    Epoch,
    ErrorEvent,
    FinishReason,
    JsonMessage,
    Refusal,
    RefusalCode,
    ReleasedRange,
    Resync,
    ResyncReason,
    ReviseEvent,
    Sampling,
    SessionContext,
    Statistics,
    StopRules,
    TokenEvent,
    Verdict,
    VerifierState,
)

patient = settings(deadline=None)
"""Test machines are shared: an example may take as long as it takes."""

SESSION = bytes.fromhex("00c0ffee00c0ffee")
DIGEST = bytes.fromhex("0123456789abcdef")
EPOCH = Epoch(3, b"boot-one")

CONTEXT = SessionContext(
    version=VERSION,
    kind="context",
    session=SESSION,
    epoch=EPOCH,
    revision=2,
    owner="desk",
    tokenizer="9f86d081884c7d65",
    prompt=(1, 4093, 198),
    committed=(17, 2**31 - 1),
    max_tokens=64,
    sampling=Sampling(0.7, 40, 0.95, 2**63 - 1),
    stop=StopRules((2, 7), ignore_end=True),
    released=(ReleasedRange(0, 1),),
    ttl=60_000_000,
)
BUNDLE = DraftBundle(VERSION, "draft", SESSION, EPOCH, 2, 9, 41, DIGEST, (5, 6, 70_000), 8, 1_500_000)
VERDICT = Verdict(VERSION, "verdict", SESSION, EPOCH, 9, 41, (5, 6, 11), 2, DIGEST, "stop", 1_200, 53_000, 4, 8)
RESYNC = Resync(VERSION, "resync", SESSION, EPOCH, 2, 9, "stale_epoch", Epoch(4, b"boot-two"))
REFUSAL = Refusal(VERSION, "refusal", "overloaded", "Try later.", SESSION, EPOCH, 9, 250_000)
DATA: tuple[DataMessage, ...] = (CONTEXT, BUNDLE, VERDICT, RESYNC, REFUSAL)

STATISTICS = Statistics(12, 30, 10, 40, 20, 1, 300_000, 2_000_000, 900, 1_100)
EVENTS: tuple[AnswerEvent, ...] = (
    TokenEvent("question-1", 0, 0, 0, "The", (504,)),
    ReviseEvent("question-1", 1, 0, 0, "A", (49,)),
    DoneEvent("question-1", 2, "A sea.", "stop", False, (ReleasedRange(0, 2),), STATISTICS, "desk"),
    ErrorEvent("question-1", 3, "overloaded", "Try later."),
)

_names = st.from_regex(r"[a-z0-9][a-z0-9-]{0,62}", fullmatch=True)
_requests = st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True)
_eight = st.binary(min_size=8, max_size=8)
_tokens = st.integers(0, 2**31 - 1)
_counts = st.integers(0, 2**53 - 1)
_hex = st.text("0123456789abcdef", max_size=64)
_texts = st.text(st.characters(codec="utf-8"), max_size=50)
_versions = st.just(VERSION)
_epochs = st.builds(Epoch, _counts, _eight)
_ranges = st.lists(st.builds(ReleasedRange, _counts, _counts), max_size=4).map(tuple)
_statistics = st.builds(Statistics, *[_counts] * 10)


def _many(most: int) -> st.SearchStrategy[tuple[int, ...]]:
    """Short sequences of tokens, and now and then the longest legal one."""
    longest = st.just(tuple(range(2**31 - most, 2**31)))
    return st.lists(_tokens, max_size=12).map(tuple) | (longest if most < 10_000 else st.nothing())


_samplings = st.builds(
    Sampling,
    temperature=st.floats(0, 100),
    top_k=_tokens,
    top_p=st.floats(0, 1, exclude_min=True),
    seed=st.integers(0, 2**63 - 1),
)
_contexts = st.builds(
    SessionContext,
    _versions,
    st.just("context"),
    _eight,
    _epochs,
    _counts,
    _names,
    _hex,
    _many(limits.MAX_CONTEXT_TOKENS),
    _many(limits.MAX_CONTEXT_TOKENS),
    st.integers(1, limits.MAX_CONTEXT_TOKENS),
    _samplings,
    st.builds(StopRules, _many(limits.MAX_STOP_TOKENS), st.booleans()),
    _ranges,
    _counts,
)
_bundles = st.builds(
    DraftBundle,
    _versions,
    st.just("draft"),
    _eight,
    _epochs,
    _counts,
    _counts,
    _counts,
    _eight,
    _many(limits.MAX_DRAFT_TOKENS),
    st.integers(0, limits.MAX_RUN_TOKENS),
    _counts,
)
_verdicts = st.builds(
    Verdict,
    _versions,
    st.just("verdict"),
    _eight,
    _epochs,
    _counts,
    _counts,
    _many(limits.MAX_VERDICT_TOKENS),
    _counts,
    _eight,
    st.sampled_from((None, *get_args(FinishReason))),
    _counts,
    _counts,
    st.integers(0, limits.MAX_DRAFT_TOKENS),
    st.integers(0, limits.MAX_RUN_TOKENS),
)
_resyncs = st.builds(
    Resync,
    _versions,
    st.just("resync"),
    _eight,
    _epochs,
    _counts,
    _counts,
    st.sampled_from(get_args(ResyncReason)),
    st.none() | _epochs,
)
_refusals = st.builds(
    Refusal,
    _versions,
    st.just("refusal"),
    st.sampled_from(get_args(RefusalCode)),
    _texts,
    st.none() | _eight,
    st.none() | _epochs,
    st.none() | _counts,
    _counts,
)
data_messages: st.SearchStrategy[DataMessage] = st.one_of(_contexts, _bundles, _verdicts, _resyncs, _refusals)

_status = st.sampled_from(("online", "offline"))
agent_states = st.builds(AgentState, _versions, _status, _hex, _texts, _texts, _hex, _texts)
verifier_states = st.builds(
    VerifierState,
    *(_versions, _status, _hex, _texts, _hex, _hex, _counts, _counts, _many(limits.MAX_STOP_TOKENS)),
    *(_counts, _counts, _counts, _counts, st.booleans(), _texts),
)
_prompts = _texts.filter(lambda text: text.strip() != "")
_turns = st.builds(ChatMessage, st.sampled_from(("system", "user", "assistant")), _prompts)
_choices = {
    "id": st.none() | _requests,
    "max_tokens": st.none() | st.integers(1, limits.MAX_CONTEXT_TOKENS),
    "temperature": st.floats(0, 100),
    "top_k": _tokens,
    "top_p": st.floats(0, 1, exclude_min=True),
    "seed": st.none() | st.integers(0, 2**63 - 1),
    "stop": st.lists(_texts.filter(bool), max_size=limits.MAX_STOP_STRINGS).map(tuple),
    "ignore_end": st.booleans(),
    "revise": st.booleans(),
}
asks = st.builds(Ask, prompt=_prompts, **_choices) | st.builds(
    Ask, messages=st.lists(_turns, min_size=1, max_size=4).map(tuple), **_choices
)
cancels = st.builds(Cancel, _requests)
_event = (_requests, _counts)
events: st.SearchStrategy[AnswerEvent] = st.one_of(
    st.builds(TokenEvent, *_event, _counts, _counts, _texts, _many(256), st.booleans()),
    st.builds(ReviseEvent, *_event, _counts, _counts, _texts, _many(256)),
    st.builds(
        DoneEvent,
        *(*_event, _texts, st.sampled_from(("stop", "length", "cancelled")), st.booleans(), _ranges, _statistics),
        verifier=_names,
    ),
    st.builds(ErrorEvent, *_event, _texts, _texts),
)
json_messages: st.SearchStrategy[JsonMessage] = st.one_of(agent_states, verifier_states, asks, cancels, events)


def decode_any(payload: bytes) -> DataMessage:
    """Decode a data-plane message of whatever kind."""
    for struct in (SessionContext, DraftBundle, Verdict, Resync):
        try:
            return codec.decode(payload, struct)
        except (UnexpectedKind, PayloadTooLarge):
            continue
    return codec.decode(payload, Refusal)
