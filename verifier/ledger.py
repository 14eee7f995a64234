"""The verifier's half of every session: logs, and what each bundle means for them, without I/O.

An entry is built from the agent's retained context and grows with the target's choices. It can be lost at any time:
the context and the next bundle rebuild it. A bundle names a position in the log (`base`, `digest`); if the entry has
that very prefix, whatever it holds beyond is answered at once, and only what reaches past its end needs the model.
At most one bundle per session is with the engine and one waits; a newer one replaces the one that waits, since two in
one step would write the same cache positions. A bundle may ask for a run: after its verdict is known the target goes
on alone, one token per step, and all is said together; a newer bundle cuts the run short.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from msgspec import Struct

from schemas.digest import Log
from schemas.limits import MAX_VERDICT_TOKENS
from schemas.messages import (
    GREEDY,
    VERSION,
    DraftBundle,
    Epoch,
    FinishReason,
    Refusal,
    Resync,
    ResyncReason,
    Sampling,
    SessionContext,
    Verdict,
)
from verifier.acceptance import Judgement, ending, judge
from verifier.admission import Declined, Target, decline, out_of_vocabulary, unservable
from verifier.recent import Recent

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from verifier.backpressure import Busy

PATIENCE: Final = 0.5
"""Seconds a bundle may wait for a context it names: MQTT keeps no order across topics."""
MEMORY_OF_TURNED_AWAY: Final = 256
"""So many contexts of sessions that were refused for now are kept, the newest; the others are asked for again by a
Resync once there is room for them."""
MEMORY_OF_PARKED: Final = 4_096
"""So many are kept, the newest; a session forgotten this way is asked for again by a Resync."""
IDLE: Final = 60.0
"""Seconds of silence after which a session may be forgotten to make room for another."""
RESYNC_BACKOFF: Final = 0.5
RESYNC_BACKOFF_MOST: Final = 8.0
MOST_FAILURES: Final = 5
"""So many failed steps in a row end a session, if between any two of them a step of another session went well: then the
trouble is its own, and will not pass. With the delays between them that takes 15 s or more."""
RETRY_AFTER: Final = 1_000_000
"""Microseconds after which a refused device may try again where trying again can help."""
RETRY_AFTER_MOST: Final = 30_000_000
"""Microseconds; it is `RETRY_AFTER` after the first failed step, and twice as long after each further one."""


class Key(Struct, frozen=True, order=True):
    """Names a session: ids are random, but a device must not reach another's by guessing."""

    device: str
    session: bytes

    def to_bytes(self) -> bytes:
        """Return the key for storage that wants bytes."""
        return self.device.encode() + b"/" + self.session


class Work(Struct, frozen=True):
    """Something for the engine: choose the target's tokens at the last `choose` positions of `sequence`.

    Attributes:
        sequence: prompt, log and the part of the draft that reaches past the log.
        choose: how many; 0 only fills the cache.
        deadline: in seconds, as far as the agent said; infinite for cache filling.
        received: when the bundle came, in seconds.
        since: when this work became possible: that, or when the token of a run before it was chosen.
        round: of the bundle; None for cache filling.
        sampling: how tokens are chosen.
        position: output position of the first token chosen.
    """

    key: Key
    epoch: Epoch
    revision: int
    sequence: tuple[int, ...]
    choose: int
    deadline: float
    received: float
    since: float
    round: int | None = None
    sampling: Sampling = GREEDY
    position: int = 0


class Hint(Struct, frozen=True):
    """What would suit the verifier now: so many tokens in a draft and in a run; 0 is no hint."""

    draft: int = 0
    run: int = 0


NO_HINT: Final = Hint()


class Reply(Struct, frozen=True):
    """Send a message to a device."""

    device: str
    message: Verdict | Resync | Refusal


class Release(Struct, frozen=True):
    """Whatever the engine holds for this session is of no more use."""

    key: Key


Effect = Reply | Release


class Tally(Struct):
    """What the target has done since the start.

    Attributes:
        rounds: bundles the target was run for.
        drafted: draft tokens judged.
        accepted: of those, accepted.
        corrected: bundles whose draft had a token that was not.
        committed: tokens added to logs.
        generated: of those, tokens of runs.
    """

    rounds: int = 0
    drafted: int = 0
    accepted: int = 0
    corrected: int = 0
    committed: int = 0
    generated: int = 0


class _Bundle(Struct, frozen=True):
    bundle: DraftBundle
    received: float


class _Parked(Struct, frozen=True):
    """A bundle that waits for the context it names, since `since`."""

    arrived: _Bundle
    since: float


class _Entry(Struct):
    """One session this verifier serves, or reads ahead of serving it.

    Attributes:
        failures: steps that failed in a row.
        own_failures: of those, the first and each before which another session's step went well.
        failed_at: how many steps had gone well at the last one.
    """

    context: SessionContext
    log: Log
    end_tokens: frozenset[int]
    finish: FinishReason | None
    touched: float
    waiting: _Bundle | None = None
    running: _Bundle | None = None
    running_work: Work | None = None
    run_left: int = 0
    in_run: bool = False
    chosen_at: float = 0.0
    prefill: bool = True
    failures: int = 0
    own_failures: int = 0
    failed_at: int = 0


class _Asked(Struct):
    """The Resync that is outstanding for a session."""

    epoch: Epoch
    revision: int
    again_at: float
    backoff: float


class Ledger:
    """All sessions of one verifier. Times are seconds of any monotonic clock."""

    def __init__(self, verifier: str, target: Target, *, capacity: int = 256, memory: int = 65_536) -> None:
        """Start empty.

        Args:
            verifier: own id; contexts that name neither it nor it as the next one are only noted.
            target: of the engine.
            capacity: sessions served at once; more are refused until one ends.
            memory: tombstones, notes on sessions of others and on refused ones, and outstanding Resyncs kept, each.
        """
        self._verifier = verifier
        self._target = target
        self._capacity = capacity
        self._entries: dict[Key, _Entry] = {}
        self._elsewhere: Recent[Key, Epoch] = Recent(memory)
        self._declined: Recent[Key, Declined] = Recent(memory)
        self._turned_away: Recent[Key, SessionContext] = Recent(min(memory, MEMORY_OF_TURNED_AWAY))
        self._tombstones: Recent[Key, Epoch] = Recent(memory)
        self._parked: Recent[Key, _Parked] = Recent(min(memory, MEMORY_OF_PARKED))
        self._asked: Recent[Key, _Asked] = Recent(memory)
        self._went_well = 0
        self.tally = Tally()

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def live(self) -> int:
        """How many sessions of its own have not ended."""
        return sum(entry.finish is None and entry.context.owner == self._verifier for entry in self._entries.values())

    @property
    def queued(self) -> int:
        """How many bundles wait for the engine."""
        return sum(entry.waiting is not None for entry in self._entries.copy().values())

    # Contexts -----------------------------------------------------------------------------------------------------

    def context(self, device: str, context: SessionContext, now: float, busy: Busy | None = None) -> list[Effect]:
        """Take in the agent's word on a session: a higher (epoch, revision) replaces the entry whole.

        Args:
            device: whose it is.
            context: as it came.
            now: in seconds.
            busy: why no new session is served now; None if it is.
        """
        key = Key(device, context.session)
        known = self._known_epoch(key)
        if known is not None and context.epoch != known and context.epoch.counter <= known.counter:
            # Older, or another agent that believes to be the same device: its next bundle will be told.
            return []
        if self._tombstones.get(key) == context.epoch:
            return []
        if self._has(key, context):
            return self._open_declined(key, context, now, busy)
        self._tombstones.pop(key, None)
        self._elsewhere.pop(key, None)
        self._forget_declined(key)
        if context.owner != self._verifier:
            return self._note(key, context, now, busy)
        effects: list[Effect] = []
        declined = unservable(context, self._target)
        if declined is None and key not in self._entries:
            if busy is not None:
                declined = decline(context, "overloaded", busy.sentence, busy.retry_after)
            else:
                effects += self._make_room(now)
                declined = None if self._has_room else decline(context, "overloaded", self._full())
        if declined is not None:
            self._declined.put(key, declined)
            if declined.code == "overloaded":
                self._turned_away.put(key, context)
            self._parked.pop(key, None)
            return [*effects, *self._drop(key), self._refuse(device, declined)]
        self._entries[key] = self._open(context, now)
        parked = self._parked.pop(key, None)
        return effects + (self._place(key, parked.arrived, now, busy) if parked else [])

    def _note(self, key: Key, context: SessionContext, now: float, busy: Busy | None) -> list[Effect]:
        """Take in that another verifier serves a session; where this one is to be the next, read the log ahead."""
        room = key in self._entries or (busy is None and self._has_room)
        if context.successor == self._verifier and room and unservable(context, self._target) is None:
            self._entries[key] = self._open(context, now)
            return []
        self._elsewhere.put(key, context.epoch)
        return self._drop(key)

    def _has(self, key: Key, context: SessionContext) -> bool:
        """Whether this context, or a later one of its epoch, was taken in before."""
        entry = self._entries.get(key)
        held = entry.context if entry else self._declined.get(key)
        return held is not None and held.epoch == context.epoch and held.revision >= context.revision

    def _drop(self, key: Key) -> list[Effect]:
        return [Release(key)] if self._entries.pop(key, None) is not None else []

    def _forget_declined(self, key: Key) -> None:
        self._declined.pop(key, None)
        self._turned_away.pop(key, None)

    @property
    def _has_room(self) -> bool:
        return len(self._entries) < self._capacity

    def _full(self) -> str:
        return f"verifier {self._verifier!r} already serves its {self._capacity} sessions: try again later"

    def _open_declined(self, key: Key, context: SessionContext | None, now: float, busy: Busy | None) -> list[Effect]:
        """Open a session that was refused only for now, if its context is at hand and there is room or can be made."""
        declined = self._declined.get(key)
        if declined is None or declined.code != "overloaded" or busy is not None:
            return []
        effects = self._make_room(now)
        if context is not None and self._has_room:
            self._forget_declined(key)
            self._entries[key] = self._open(context, now)
        return effects

    def _make_room(self, now: float) -> list[Effect]:
        """If it is full, forget the session that has been silent longest, and for long: it can come back by Resync."""
        if self._has_room:
            return []
        silent = (
            (entry.touched, key)
            for key, entry in self._entries.items()
            if entry.waiting is None and entry.running is None
        )
        touched, key = min(silent, default=(now, None))
        if key is None or touched + IDLE > now:
            return []
        del self._entries[key]
        return [Release(key)]

    def _open(self, context: SessionContext, now: float) -> _Entry:
        stop = frozenset(context.stop.tokens)
        end = stop if context.stop.ignore_end else stop | self._target.end_tokens
        log = Log(context.prompt, context.committed)
        finish = ending(context.committed, end_tokens=end, room=context.max_tokens)
        return _Entry(context, log, end, finish, now)

    def cleared(self, device: str, session: bytes) -> list[Effect]:
        """The agent has cleared the retained context: the session has ended, whatever was under way."""
        key = Key(device, session)
        epoch = self._known_epoch(key)
        self._parked.pop(key, None)
        self._asked.pop(key, None)
        self._elsewhere.pop(key, None)
        self._forget_declined(key)
        if epoch is not None:
            self._tombstones.put(key, epoch)
        return self._drop(key)

    # Bundles ------------------------------------------------------------------------------------------------------

    def bundle(self, device: str, bundle: DraftBundle, now: float, busy: Busy | None = None) -> list[Effect]:
        """Take in a bundle: answer it from the log, queue it for the engine, or ask for the context again.

        Args:
            device: whose it is.
            bundle: as it came.
            now: in seconds.
            busy: why no new session is served now; None if it is.
        """
        return self._place(Key(device, bundle.session), _Bundle(bundle, now), now, busy)

    def shed(self, key: Key, busy: Busy) -> list[Effect]:
        """Refuse the bundle that waits for the engine, since it would come too late; the device may try again."""
        entry = self._entries.get(key)
        if entry is None or entry.waiting is None:
            return []
        waiting, entry.waiting = entry.waiting, None
        declined = decline(entry.context, "overloaded", busy.sentence, busy.retry_after)
        return [self._refuse(key.device, declined, waiting.bundle.round)]

    def _place(self, key: Key, arrived: _Bundle, now: float, busy: Busy | None) -> list[Effect]:
        bundle = arrived.bundle
        entry = self._entries.get(key)
        known = self._known_epoch(key)
        if known is not None and bundle.epoch.counter < known.counter:
            return self._ask(key, bundle, "stale_epoch", now, known)
        if known is not None and bundle.epoch.counter == known.counter and bundle.epoch.nonce != known.nonce:
            return self._ask(key, bundle, "epoch_conflict", now, known)
        if key in self._tombstones and bundle.epoch == known:
            return self._ask(key, bundle, "ended", now, known)
        declined = self._declined.get(key)
        effects: list[Effect] = []
        if declined is not None and bundle.epoch == known and bundle.revision <= declined.revision:
            effects = self._open_declined(key, self._turned_away.get(key), now, busy)
            entry = self._entries.get(key)
            if entry is None and declined.code == "overloaded" and busy is None and self._has_room:
                return effects + self._ask(key, bundle, "unknown_session", now, known)
            if entry is None:
                return [*effects, self._refuse(key.device, declined, bundle.round)]
        if entry is None or bundle.epoch != entry.context.epoch or bundle.revision > entry.context.revision:
            self._park(key, arrived, now)
            return effects
        return effects + self._check(key, entry, arrived, now)

    def _park(self, key: Key, arrived: _Bundle, now: float) -> None:
        """Let a bundle wait for its context; a newer one takes the older one's place and remaining patience."""
        held = self._parked.get(key)
        if held is None:
            self._parked.put(key, _Parked(arrived, now))
            return
        old, new = held.arrived.bundle, arrived.bundle
        if (new.epoch.counter, new.round) > (old.epoch.counter, old.round):
            self._parked[key] = _Parked(arrived, held.since)

    def _check(self, key: Key, entry: _Entry, arrived: _Bundle, now: float) -> list[Effect]:
        bundle = arrived.bundle
        entry.touched = max(entry.touched, now)
        foreign = out_of_vocabulary(bundle.draft, self._target)
        if foreign is not None:
            wrong = decline(entry.context, "token_out_of_vocabulary", foreign)
            return [self._refuse(key.device, wrong, bundle.round)]
        if bundle.base > len(entry.log):
            return self._ask(key, bundle, "base_ahead", now, entry.context.epoch)
        if entry.log.digest(bundle.base) != bundle.digest:
            return self._ask(key, bundle, "digest_differs", now, entry.context.epoch)
        if entry.running is not None and bundle.round <= entry.running.bundle.round:
            return []
        if entry.waiting is not None and bundle.round <= entry.waiting.bundle.round:
            return []
        return self._settle(key, entry, arrived)

    def _settle(self, key: Key, entry: _Entry, arrived: _Bundle) -> list[Effect]:
        """Answer from the log if it says more than the draft, else let the bundle wait for the engine."""
        bundle = arrived.bundle
        said = entry.log.tokens(bundle.base)
        if entry.finish is None and bundle.draft[: len(said)] == said:
            if entry.waiting is not None:
                # A resend must not lose the place in the queue that the first bundle had.
                arrived = _Bundle(bundle, min(arrived.received, entry.waiting.received))
            entry.waiting = arrived
            return []
        if not said:
            # The text ended exactly at this base: the agent has all of it, but must have missed that it ended.
            said = entry.log.tokens(bundle.base - 1)
            bundle = DraftBundle(
                VERSION, "draft", bundle.session, bundle.epoch, bundle.revision, bundle.round, bundle.base - 1, b"", ()
            )
        return [self._verdict(key, entry, bundle)]

    def _verdict(
        self,
        key: Key,
        entry: _Entry,
        bundle: DraftBundle,
        *,
        queue_time: float = 0.0,
        step_time: float = 0.0,
        hint: Hint = NO_HINT,
    ) -> Reply:
        tokens = entry.log.tokens(bundle.base, bundle.base + MAX_VERDICT_TOKENS)
        end = bundle.base + len(tokens)
        agreeing = 0
        for ours, theirs in zip(tokens, bundle.draft, strict=False):
            if ours != theirs:
                break
            agreeing += 1
        return Reply(
            key.device,
            Verdict(
                VERSION,
                "verdict",
                bundle.session,
                bundle.epoch,
                bundle.round,
                bundle.base,
                tokens,
                agreeing,
                entry.log.digest(end),
                entry.finish if end == len(entry.log) else None,
                round(queue_time * 1e6),
                round(step_time * 1e6),
                hint.draft,
                hint.run,
            ),
        )

    # The engine's side --------------------------------------------------------------------------------------------

    def ready(self) -> Iterator[Work]:
        """Yield what the engine could do now, one piece per session that has none under way."""
        for key, entry in self._entries.items():
            running = entry.running_work
            if running is None and entry.running is not None:
                yield self._work(key, entry, entry.running, ())  # the next token of a run
                continue
            if running is not None and (running.choose or entry.waiting is None):
                continue  # a bundle takes over from cache filling, which it goes on with
            if entry.waiting is None and (entry.finish or not entry.prefill):
                continue
            if entry.waiting is not None:
                yield self._work(key, entry, entry.waiting, self._rest(entry, entry.waiting.bundle))
            elif len(sequence := entry.log.sequence()) > 1:
                context = entry.context
                never = float("inf")
                yield Work(key, context.epoch, context.revision, sequence[:-1], 0, never, never, never)

    def _work(self, key: Key, entry: _Entry, arrived: _Bundle, draft: tuple[int, ...]) -> Work:
        context, bundle = entry.context, arrived.bundle
        return Work(
            key,
            context.epoch,
            context.revision,
            entry.log.sequence() + draft,
            len(draft) + 1,
            arrived.received + (bundle.time_left / 1e6 if bundle.time_left else float("inf")),
            arrived.received,
            max(arrived.received, entry.chosen_at) if entry.in_run else arrived.received,
            bundle.round,
            context.sampling,
            len(entry.log),
        )

    def _rest(self, entry: _Entry, bundle: DraftBundle) -> tuple[int, ...]:
        """Return the part of a draft that reaches past the log, no longer than the text may become."""
        rest = bundle.draft[len(entry.log) - bundle.base :]
        return rest[: entry.context.max_tokens - len(entry.log) - 1]

    def start(self, work: Work) -> None:
        """Note that the engine has taken this work up, at once or in chunks; it must be one `ready` yields now."""
        entry = self._entries[work.key]
        entry.running_work = work
        entry.prefill = False
        if entry.running is not None:
            return  # a run goes on
        assert work.round == (entry.waiting.bundle.round if entry.waiting else None)
        if work.choose and entry.waiting is not None:
            entry.running, entry.waiting = entry.waiting, None
            entry.run_left = entry.running.bundle.run

    def complete(
        self, work: Work, chosen: Sequence[int], now: float, step_time: float, hint: Hint = NO_HINT
    ) -> list[Effect]:
        """Take in the target's tokens for a piece of work; drop them if the entry was replaced meanwhile.

        Args:
            work: as it was started.
            chosen: [work.choose] token ids.
            now: in seconds.
            step_time: of the step that chose them, in seconds.
            hint: for the device.
        """
        self._went_well += 1
        entry = self._entries.get(work.key)
        if entry is None or entry.running_work is not work:
            return []
        running, entry.running_work = entry.running, None
        if running is None:
            return []
        bundle = running.bundle
        room = entry.context.max_tokens - len(entry.log)
        draft = work.sequence[len(work.sequence) - work.choose + 1 :]
        entry.failures = 0
        judgement = judge(draft, chosen, end_tokens=entry.end_tokens, room=room)
        self._count(entry, len(draft), judgement)
        entry.log.extend(judgement.tokens)
        entry.finish = judgement.finish
        if entry.run_left and entry.finish is None and entry.waiting is None:
            entry.run_left -= 1
            entry.in_run, entry.chosen_at = True, now
            return []
        entry.running, entry.run_left, entry.in_run = None, 0, False
        queue_time = max(0.0, now - running.received - step_time)
        effects: list[Effect] = [
            self._verdict(work.key, entry, bundle, queue_time=queue_time, step_time=step_time, hint=hint)
        ]
        if entry.waiting is not None:
            waiting, entry.waiting = entry.waiting, None
            effects += self._check(work.key, entry, waiting, now)
        return effects

    def _count(self, entry: _Entry, drafted: int, judgement: Judgement) -> None:
        tally, in_run = self.tally, entry.in_run
        tally.rounds += not in_run
        tally.drafted += drafted
        tally.accepted += judgement.accepted
        tally.corrected += len(judgement.tokens) > judgement.accepted < drafted
        tally.committed += len(judgement.tokens)
        tally.generated += len(judgement.tokens) if in_run else 0

    def fail(self, work: Work, sentence: str) -> list[Effect]:
        """The engine could not do this work; the device is told and may try again, less and less often.

        Where every session fails, as on a GPU whose memory another process has taken, that goes on until it has passed.
        """
        entry = self._entries.get(work.key)
        if entry is None or entry.running_work is not work:
            return []
        running, entry.running, entry.running_work = entry.running, None, None
        entry.run_left, entry.in_run = 0, False
        if running is None:
            return []
        if not entry.failures:
            entry.own_failures = 1
        elif self._went_well > entry.failed_at:
            entry.own_failures += 1
        delay = min(RETRY_AFTER << min(entry.failures, 16), RETRY_AFTER_MOST)
        entry.failures += 1
        entry.failed_at = self._went_well
        declined = decline(entry.context, "engine_failed", sentence, delay)
        final = entry.own_failures >= MOST_FAILURES
        return [self._refuse(work.key.device, declined, running.bundle.round, final=final)]

    # Time ---------------------------------------------------------------------------------------------------------

    def tick(self, now: float) -> list[Effect]:
        """Ask for the contexts of bundles that have waited too long for them."""
        effects: list[Effect] = []
        while self._parked:
            key, held = next(iter(self._parked.items()))
            if held.since + PATIENCE > now:
                break
            del self._parked[key]
            reason: ResyncReason = "unknown_revision" if key in self._entries else "unknown_session"
            effects += self._ask(key, held.arrived.bundle, reason, now, self._known_epoch(key))
        return effects

    def next_tick(self) -> float | None:
        """Return when `tick` will next have something to do, in seconds, or None."""
        if not self._parked:
            return None
        return next(iter(self._parked.values())).since + PATIENCE

    # Words to devices ---------------------------------------------------------------------------------------------

    def _ask(
        self, key: Key, bundle: DraftBundle, reason: ResyncReason, now: float, known: Epoch | None
    ) -> list[Effect]:
        """Ask for the context again; once per (session, revision), then with back-off."""
        asked = self._asked.get(key)
        backoff = RESYNC_BACKOFF
        if asked is not None and (asked.epoch, asked.revision) == (bundle.epoch, bundle.revision):
            if now < asked.again_at:
                return []
            backoff = min(asked.backoff * 2, RESYNC_BACKOFF_MOST)
        record = _Asked(bundle.epoch, bundle.revision, now + backoff, backoff)
        self._asked.put(key, record)
        resync = Resync(VERSION, "resync", bundle.session, bundle.epoch, bundle.revision, bundle.round, reason, known)
        return [Reply(key.device, resync)]

    def _refuse(self, device: str, declined: Declined, number: int | None = None, *, final: bool = False) -> Reply:
        again = declined.code in ("overloaded", "engine_failed") and not final
        retry = (declined.retry_after or RETRY_AFTER) if again else 0
        return Reply(
            device,
            Refusal(
                VERSION, "refusal", declined.code, declined.sentence, declined.session, declined.epoch, number, retry
            ),
        )

    def _known_epoch(self, key: Key) -> Epoch | None:
        entry = self._entries.get(key)
        if entry is not None:
            return entry.context.epoch
        declined = self._declined.get(key)
        if declined is not None:
            return declined.epoch
        return self._elsewhere.get(key) or self._tombstones.get(key)
