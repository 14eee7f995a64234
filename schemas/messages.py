"""All messages of the protocol as frozen structs.

Data plane (`SessionContext`, `DraftBundle`, `Verdict`, `Resync`, `Refusal`): msgpack arrays, version first, kind
second, so that a reader can name what it cannot read. New fields are only ever added at the end, with a default. App
and state messages: JSON objects, readable in any MQTT client. Durations are integer microseconds counted from receipt;
no clock is ever compared across machines.
"""

from __future__ import annotations

import math
from typing import Annotated, ClassVar, Final, Literal

from msgspec import Meta, Struct

from schemas import limits

VERSION = 1
"""Major version of the protocol. A message of another major version is refused, naming both."""

SessionId = Annotated[bytes, Meta(min_length=8, max_length=8, description="random id of one prompt's session")]
Digest = Annotated[bytes, Meta(min_length=8, max_length=8, description="prefix digest, see schemas.digest")]
Nonce = Annotated[bytes, Meta(min_length=8, max_length=8, description="drawn anew at every start of an agent")]
TokenId = Annotated[int, Meta(ge=0, lt=2**31)]
Count = Annotated[int, Meta(ge=0, lt=2**53)]
Micros = Annotated[int, Meta(ge=0, lt=2**53, description="a duration in microseconds")]
Name = Annotated[str, Meta(pattern=r"\A[a-z0-9][a-z0-9-]{0,62}\Z", description="id of a device or a verifier")]
RequestId = Annotated[str, Meta(pattern=r"\A[A-Za-z0-9_-]{1,64}\Z", description="an app's name for its request")]
Sentence = Annotated[str, Meta(max_length=limits.MAX_SENTENCE_CHARACTERS)]
Fingerprint = Annotated[str, Meta(max_length=64, description="hexadecimal")]
Version = Annotated[int, Meta(ge=0, lt=2**16)]

FinishReason = Literal["stop", "length"]
"""`stop`: the target's end token (or a stop token of the session); `length`: the token limit."""

ResyncReason = Literal[
    "unknown_session", "unknown_revision", "base_ahead", "digest_differs", "stale_epoch", "epoch_conflict", "ended"
]

RefusalCode = Literal[
    "malformed",
    "too_large",
    "truncated",
    "unsupported_version",
    "unexpected_kind",
    "invalid_field",
    "empty_prompt",
    "prompt_too_long",
    "token_out_of_vocabulary",
    "tokenizer_mismatch",
    "unsupported_sampling",
    "overloaded",
    "draining",
    "engine_failed",
]
"""Why a verifier does not serve a session or a bundle."""


class Epoch(Struct, frozen=True, array_like=True):
    """A fence: everything said in an older epoch of a session is void.

    Attributes:
        counter: made durable by the agent before it is used; higher is newer.
        nonce: of the agent's boot. The same counter with another nonce means that two agents believe they are the
            same device (a cloned card, a rolled-back disk); the agent answers with a fresh epoch.
    """

    counter: Count
    nonce: Nonce


class Sampling(Struct, frozen=True, array_like=True):
    """How a token is chosen from the target's logits.

    Attributes:
        temperature: 0 means greedy: the highest logit, the lowest id on ties.
        top_k: keep the k most likely tokens; 0 keeps all.
        top_p: keep the smallest set of most likely tokens whose probability reaches top_p; 1 keeps all.
        seed: key of the sampling noise; unused when greedy.
    """

    temperature: Annotated[float, Meta(ge=0, le=100)] = 0.0
    top_k: Annotated[int, Meta(ge=0, lt=2**31)] = 0
    top_p: Annotated[float, Meta(gt=0, le=1)] = 1.0
    seed: Annotated[int, Meta(ge=0, le=2**63 - 1)] = 0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and math.isfinite(self.top_p)):
            raise ValueError("temperature and top_p must be finite numbers")


GREEDY: Final = Sampling()
"""The highest logit, the lowest id on ties."""


class StopRules(Struct, frozen=True, array_like=True):
    """What ends a text beside the token limit; stop strings are the agent's, on text.

    Attributes:
        tokens: ids that end the text like the target's own end tokens; the ending token is part of the log.
        ignore_end: go on after the target's end tokens (for measurements of fixed length).
    """

    tokens: Annotated[tuple[TokenId, ...], Meta(max_length=limits.MAX_STOP_TOKENS)] = ()
    ignore_end: bool = False


class ReleasedRange(Struct, frozen=True, array_like=True):
    """Output tokens [start, end) that were made final by the agent without the target's word."""

    start: Count
    end: Count


Tokens = Annotated[tuple[TokenId, ...], Meta(max_length=limits.MAX_CONTEXT_TOKENS)]
Draft = Annotated[tuple[TokenId, ...], Meta(max_length=limits.MAX_DRAFT_TOKENS)]


class SessionContext(Struct, frozen=True, array_like=True):
    """The agent's word on a session; retained, so that any verifier can take the session up at any time.

    A higher (epoch, revision) replaces a verifier's entry whole.

    Attributes:
        owner: the verifier that shall serve the session; the others keep (session, epoch) only.
        tokenizer: digest of the tokenizer that made `prompt` (`schemas.digest.tokenizer_digest`).
        prompt: token ids of the prompt, chat template applied.
        committed: output token ids that are final.
        max_tokens: the output ends at this many tokens.
        released: ranges of `committed` that the target did not confirm.
        ttl: after this long without a new context, an operator's sweeper may clear the topic.
        successor: the verifier that will serve the session next, in a higher epoch; it may read the log ahead.
    """

    limit: ClassVar[int] = limits.MAX_CONTEXT_BYTES

    version: Version
    kind: Literal["context"]
    session: SessionId
    epoch: Epoch
    revision: Count
    owner: Name
    tokenizer: Fingerprint
    prompt: Tokens
    committed: Tokens
    max_tokens: Annotated[int, Meta(ge=1, le=limits.MAX_CONTEXT_TOKENS)]
    sampling: Sampling = Sampling()
    stop: StopRules = StopRules()
    released: Annotated[tuple[ReleasedRange, ...], Meta(max_length=limits.MAX_RELEASED_RANGES)] = ()
    ttl: Micros = 3_600_000_000
    successor: Name | None = None


class DraftBundle(Struct, frozen=True, array_like=True):
    """Draft tokens for one round.

    Attributes:
        round: numbers the bundles of a session; a resend always has a new one.
        base: how many output tokens the agent has committed; the draft starts there.
        digest: of prompt and log up to base.
        draft: draft token ids; may be empty.
        run: how many further tokens the verifier may generate by itself after the verdict.
        time_left: the agent's patience; work that cannot be answered within it may be dropped.
    """

    limit: ClassVar[int] = limits.MAX_DRAFT_BYTES

    version: Version
    kind: Literal["draft"]
    session: SessionId
    epoch: Epoch
    revision: Count
    round: Count
    base: Count
    digest: Digest
    draft: Draft
    run: Annotated[int, Meta(ge=0, le=limits.MAX_RUN_TOKENS)] = 0
    time_left: Micros = 0


class Verdict(Struct, frozen=True, array_like=True):
    """What the target says from `base` on.

    Attributes:
        round: of the bundle this answers.
        base: of that bundle.
        tokens: everything committed from base on: accepted, then correction or bonus token, then any run.
        accepted: how many tokens of that bundle's draft were accepted.
        digest: of prompt and log after the last of `tokens`.
        finish: why the text ends with the last of `tokens`, or None.
        queue_time: from receipt to the start of the step that answered.
        step_time: of that step, or of the last one of a run; 0 if the log knew the answer.
        draft_hint: the draft length that would suit the verifier now; 0 is no hint.
        run_hint: the run that would suit the verifier now.
    """

    limit: ClassVar[int] = limits.MAX_VERDICT_BYTES

    version: Version
    kind: Literal["verdict"]
    session: SessionId
    epoch: Epoch
    round: Count
    base: Count
    tokens: Annotated[tuple[TokenId, ...], Meta(max_length=limits.MAX_VERDICT_TOKENS)]
    accepted: Count
    digest: Digest
    finish: FinishReason | None = None
    queue_time: Micros = 0
    step_time: Micros = 0
    draft_hint: Annotated[int, Meta(ge=0, le=limits.MAX_DRAFT_TOKENS)] = 0
    run_hint: Annotated[int, Meta(ge=0, le=limits.MAX_RUN_TOKENS)] = 0


class Resync(Struct, frozen=True, array_like=True):
    """The verifier cannot place a bundle: publish the context again, under a higher revision.

    Attributes:
        epoch: of the bundle that could not be placed.
        revision: of that bundle; the agent ignores a Resync for a revision it has already left behind.
        reason: `stale_epoch`, `epoch_conflict` and `ended` (the context was cleared) ask for an epoch above `known`,
            the others for a fresh revision. An agent that has ended the session clears its context again instead.
        known: the epoch that the verifier holds for the session, if any.
    """

    limit: ClassVar[int] = limits.MAX_VERDICT_BYTES

    version: Version
    kind: Literal["resync"]
    session: SessionId
    epoch: Epoch
    revision: Count
    round: Count
    reason: ResyncReason
    known: Epoch | None = None


class Refusal(Struct, frozen=True, array_like=True):
    """The verifier does not serve this session or bundle.

    Attributes:
        code: for programs.
        sentence: for people: what was wrong and what to do.
        session, epoch, round: what was refused, as far as it could be read.
        retry_after: try again after this long; 0 means that trying again cannot help.
    """

    limit: ClassVar[int] = limits.MAX_VERDICT_BYTES

    version: Version
    kind: Literal["refusal"]
    code: RefusalCode
    sentence: Sentence
    session: SessionId | None = None
    epoch: Epoch | None = None
    round: Count | None = None
    retry_after: Micros = 0


class AgentState(Struct, frozen=True, omit_defaults=True):
    """Retained state of a device; its offline form is the agent's last will.

    Attributes:
        boot: id of this run of the agent; changes at every start.
        drafter: what it drafts with.
        target: folder name of the target model it was set up for.
        release: version of the software.
    """

    limit: ClassVar[int] = limits.MAX_STATE_BYTES

    version: Version
    status: Literal["online", "offline"]
    boot: Fingerprint
    drafter: str = ""
    target: str = ""
    tokenizer: Fingerprint = ""
    release: str = ""


class VerifierState(Struct, frozen=True, omit_defaults=True):
    """Retained announcement of a verifier; its offline form is the verifier's last will.

    Attributes:
        boot: id of this run of the verifier.
        target: name of the target model.
        tokenizer: digest of the target's tokenizer.
        numerics: fingerprint of weights, dtype, device kind and engine version; equal ones give equal texts.
        vocab_size: token ids are below it.
        context_length: prompt and output tokens that one session may have.
        end_tokens: ids with which the target ends a text.
        capacity: sessions it can serve at once.
        load: sessions it serves now.
        round_time: how long a bundle takes from receipt to verdict, as measured lately, in microseconds.
        heartbeat: advanced by engine progress, not by a timer; standing still means stuck.
        draining: takes no new sessions.
    """

    limit: ClassVar[int] = limits.MAX_STATE_BYTES

    version: Version
    status: Literal["online", "offline"]
    boot: Fingerprint
    target: str = ""
    tokenizer: Fingerprint = ""
    numerics: Fingerprint = ""
    vocab_size: Count = 0
    context_length: Count = 0
    end_tokens: Annotated[tuple[TokenId, ...], Meta(max_length=limits.MAX_STOP_TOKENS)] = ()
    capacity: Count = 0
    load: Count = 0
    round_time: Micros = 0
    heartbeat: Count = 0
    draining: bool = False
    release: str = ""


class ChatMessage(Struct, frozen=True):
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: Annotated[str, Meta(max_length=limits.MAX_PROMPT_CHARACTERS)]


class Ask(Struct, frozen=True, omit_defaults=True):
    """A request of an app, as JSON. Plain text on the same topic is the `prompt` of an otherwise empty Ask.

    Attributes:
        id: makes the request exactly-once: a second Ask with the same id is answered once.
        prompt: one user message; give either `prompt` or `messages`.
        messages: a conversation, oldest first.
        max_tokens: the output ends at this many tokens; None leaves it to the agent.
        stop: strings that end the text; they are not part of it.
        revise: the app can take text back. While the verifier is out of reach, a device set up for it then shows
            provisional tokens. Without this all an app is shown is final.
    """

    limit: ClassVar[int] = limits.MAX_ASK_BYTES

    id: RequestId | None = None
    prompt: Annotated[str, Meta(max_length=limits.MAX_PROMPT_CHARACTERS)] | None = None
    messages: Annotated[tuple[ChatMessage, ...], Meta(max_length=limits.MAX_MESSAGES)] = ()
    max_tokens: Annotated[int, Meta(ge=1, le=limits.MAX_CONTEXT_TOKENS)] | None = None
    temperature: Annotated[float, Meta(ge=0, le=100)] = 0.0
    top_k: Annotated[int, Meta(ge=0, lt=2**31)] = 0
    top_p: Annotated[float, Meta(gt=0, le=1)] = 1.0
    seed: Annotated[int, Meta(ge=0, le=2**63 - 1)] | None = None
    stop: Annotated[
        tuple[Annotated[str, Meta(min_length=1, max_length=limits.MAX_STOP_CHARACTERS)], ...],
        Meta(max_length=limits.MAX_STOP_STRINGS),
    ] = ()
    ignore_end: bool = False
    revise: bool = False


class Cancel(Struct, frozen=True):
    """An app's wish to end a request, as JSON. Plain text on the same topic is the `id`."""

    limit: ClassVar[int] = limits.MAX_STATE_BYTES

    id: RequestId


class Statistics(Struct, frozen=True):
    """What a finished request took.

    Attributes:
        prompt_tokens: length of the prompt.
        tokens: output tokens committed.
        rounds: verdicts that committed something.
        drafted: draft tokens that verdicts judged.
        accepted: of those, accepted.
        resends: bundles sent again.
        ttft: from the ask to the first committed token, in microseconds.
        duration: from the ask to the end, in microseconds.
        bytes_up: payload bytes of contexts and bundles.
        bytes_down: payload bytes of verdicts, resyncs and refusals.
        generated: of `tokens`, those the verifier wrote by itself in runs, without a draft.
    """

    prompt_tokens: Count
    tokens: Count
    rounds: Count
    drafted: Count
    accepted: Count
    resends: Count
    ttft: Micros
    duration: Micros
    bytes_up: Count
    bytes_down: Count
    generated: Count = 0


class TokenEvent(Struct, frozen=True, omit_defaults=True, tag_field="event", tag="token"):
    """More of the answer: final, unless it says that it is provisional.

    A final event says that the whole text up to its end is final. It may say again what was shown before, after a crash
    of the agent or when the target has confirmed provisional tokens; an app drops what it has.

    Attributes:
        sequence: numbers the events of a request from 0; after a crash of the agent, events may come twice.
        index: output position of the first of `tokens`.
        offset: where `text` starts in the whole text, in code points.
        text: may be empty when a character or a possible stop string is not complete yet.
        provisional: not verified: a revise event may take it back. Only for apps that opted in (`Ask.revise`).
    """

    limit: ClassVar[int] = limits.MAX_ANSWER_BYTES

    request: RequestId
    sequence: Count
    index: Count
    offset: Count
    text: str
    tokens: tuple[TokenId, ...]
    provisional: bool = False


class ReviseEvent(Struct, frozen=True, tag_field="event", tag="revise"):
    """Replaces whatever was shown from `offset` on, and is final; only for apps that opted in (`Ask.revise`).

    It may shorten the text. The first event of a restarted agent is one that replaces everything.

    Attributes:
        index: output position of the first token that is replaced.
        offset: where the text that is replaced starts, in code points.
        text: what stands there now; may be empty.
        tokens: that stand there now; may be empty.
    """

    limit: ClassVar[int] = limits.MAX_ANSWER_BYTES

    request: RequestId
    sequence: Count
    index: Count
    offset: Count
    text: str
    tokens: tuple[TokenId, ...]


class DoneEvent(Struct, frozen=True, tag_field="event", tag="done"):
    """The answer is complete.

    Attributes:
        text: the whole answer.
        finish_reason: `stop`, `length` or `cancelled`.
        lossless: every token is the target's.
        released: ranges of output tokens that the device made final without the target's word.
        verifier: who verified it last.
    """

    limit: ClassVar[int] = limits.MAX_ANSWER_BYTES

    request: RequestId
    sequence: Count
    text: str
    finish_reason: Literal["stop", "length", "cancelled"]
    lossless: bool
    released: tuple[ReleasedRange, ...]
    statistics: Statistics
    verifier: str = ""


class ErrorEvent(Struct, frozen=True, tag_field="event", tag="error"):
    """The request has ended without a complete answer, or never began.

    Attributes:
        code: for programs; the wire errors' and refusals' codes and a few of the agent's own.
        message: for people: what was wrong and what to do.
    """

    limit: ClassVar[int] = limits.MAX_ANSWER_BYTES

    request: RequestId
    sequence: Count
    code: str
    message: Sentence


AnswerEvent = TokenEvent | ReviseEvent | DoneEvent | ErrorEvent
DataMessage = SessionContext | DraftBundle | Verdict | Resync | Refusal
JsonMessage = AgentState | VerifierState | Ask | Cancel | TokenEvent | ReviseEvent | DoneEvent | ErrorEvent
