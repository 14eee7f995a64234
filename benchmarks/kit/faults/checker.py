"""What a run came to, computed from its raw log and from nothing else. Pure functions.

- *completed*: requests that ended with `done`, not cancelled.
- *identical*: of these, those that are whole what the target alone writes, and contradicted nothing on the way.
- *lost*: requests that never ended, and those whose end leaves out something that was shown before.
- *duplicated*: requests of which something was shown, or ended, twice, after the app dropped what it had by sequence
  number, token index and text offset.
- *revised tokens*: provisional tokens in whose place others came.
- *released tokens*: made final by a device alone; of these, *unlike* are those that the target would not have chosen
  where they stand. A request with released tokens need not be identical.
- *Recovery*: for every kill, freeze, cut and hold, and every request that it affected, the seconds from the fault to
  the moment when the app gets a token of that request that it did not have, or its end. A request is under way from the
  first ask to its last event. Faults of an agent or its link affect the request that is under way on that device;
  faults of the broker all requests under way; faults of a verifier those of which the last bundle before the fault was
  sent to it. So the time the victim is away is part of it, and so is the rest of a round that would have gone on
  undisturbed. What never went on is lost, and has no such time.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import Counter, defaultdict
from statistics import median
from typing import TYPE_CHECKING, Final, Protocol

import msgspec

from benchmarks.kit.faults.answer import Answer
from benchmarks.kit.faults.logs import Asked, Heard
from benchmarks.kit.faults.use import Use, use_of
from benchmarks.kit.link_log import Changed, LinkEvent, Published
from schemas import codec
from schemas.errors import WireError
from schemas.topics import Family, Topic, Topics

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from benchmarks.kit.faults.logs import AppEvent, Done, Logs
    from schemas.messages import Ask

SHOWN: Final = 20
"""Complaints that are printed."""


class Target(Protocol):
    """The target alone, to compare completed answers with."""

    def identical(self, request: Request) -> bool:
        """Whether the answer is whole what the target alone writes."""
        ...

    def unlike(self, request: Request) -> int:
        """Return how many released tokens of the answer the target would not have chosen, given what is before them."""
        ...


class Request:
    """One request: what was asked, when, and what came.

    Attributes:
        device: that was asked.
        ask: what it was asked.
        asked_at: for the first time, in seconds.
        asked_again: so many times.
        answer: what came of it.
    """

    def __init__(self, device: str, ask: Ask, asked_at: float) -> None:
        self.device = device
        self.ask = ask
        self.asked_at = asked_at
        self.asked_again = 0
        self.answer = Answer(revise=ask.revise)

    def under_way(self, at: float) -> bool:
        """Whether it was asked and had not ended then."""
        return self.asked_at < at and (self.answer.ended_at is None or at < self.answer.ended_at)

    def resumed(self, at: float) -> float | None:
        """Return how long after `at` something new came; None if nothing did."""
        progress = self.answer.progress
        place = bisect_right(progress, at)
        return progress[place] - at if place < len(progress) else None


class Struck(msgspec.Struct, frozen=True):
    """A fault as it was carried out.

    Attributes:
        kind: such as `kill agent`, `freeze verifier`, `cut`, `hold`.
        name: of the process, or of the device whose link it was.
    """

    at: float
    kind: str
    name: str


class Recovery(msgspec.Struct, frozen=True):
    """Recovery times in seconds.

    Attributes:
        affected: requests that faults affected, a request once for each fault.
        median: of those that went on.
        p95: the nearest rank.
    """

    affected: int
    median: float
    p95: float


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What is printed; the module says what is counted how.

    Attributes:
        unlike_tokens: of the released ones.
        released_requests: completed ones that have such tokens.
        failed: requests that ended with `error`.
        kills, freezes: by role.
        published: messages that devices sent, by what their topic carries.
        dropped, duplicates: messages that links dropped and passed on twice, likewise.
        asked_again: asks sent again by the app.
        repeats: events that the app dropped since it had them already.
        resends: bundles that devices sent again, by the statistics of answers that are done, which are those
            of the last run of the agent alone.
        moved: times that a device turned to another verifier between two bundles.
        tokens: of completed answers.
        recovery: of all faults, and by kind.
        use: memory and open files, by role.
        seconds: from the first ask to the last event.
        complaints: what is wrong, in sentences, the first `SHOWN`.
    """

    requests: int
    completed: int
    identical: int
    lost: int
    duplicated: int
    revised_tokens: int
    released_tokens: int
    unlike_tokens: int
    released_requests: int
    failed: int
    kills: dict[str, int]
    freezes: dict[str, int]
    cuts: int
    holds: int
    published: dict[str, int]
    dropped: dict[str, int]
    duplicates: dict[str, int]
    asked_again: int
    repeats: int
    resends: int
    moved: int
    tokens: int
    recovery: dict[str, Recovery]
    use: dict[str, Use]
    seconds: float
    seed: int
    complaints: list[str]

    @property
    def good(self) -> bool:
        """Whether nothing was lost, nothing came twice and every text is the target's, but for what was released.

        Nor is there anything else to complain of, such as an event that nobody can read.
        """
        return self.completed == self.requests and not (self.strange or self.lost or self.duplicated or self.complaints)

    @property
    def strange(self) -> int:
        """Completed answers that are not what the target alone writes, and have no excuse."""
        return self.completed - self.released_requests - self.identical


# Requests ---------------------------------------------------------------------------------------------------------


def requests_of(app: Iterable[AppEvent]) -> tuple[dict[str, Request], list[str]]:
    """Return the requests of an app's log by id, and complaints about what belongs to none or cannot be read."""
    requests: dict[str, Request] = {}
    complaints: list[str] = []
    for event in app:
        if isinstance(event, Asked):
            assert event.ask.id is not None, "the app gives each request an id"
            if event.ask.id in requests:
                requests[event.ask.id].asked_again += 1
            else:
                requests[event.ask.id] = Request(event.device, event.ask, event.at)
        elif isinstance(event, Heard):
            complaint = _hear(event, requests.get(event.request))
            if complaint:
                complaints.append(complaint)
    return requests, complaints


def _hear(event: Heard, request: Request | None) -> str:
    """Take in an event, or return what is wrong with it."""
    if request is None or request.device != event.device:
        return f"{event.device} answered a request {event.request} that it was not asked"
    try:
        request.answer.take(event.at, codec.decode_event(event.payload.encode()))
    except WireError as error:
        return f"{event.device} sent an event of {event.request} that cannot be read: {error}"
    return ""


def is_completed(request: Request) -> bool:
    """Whether the whole answer came."""
    done = request.answer.done
    return done is not None and done.finish_reason != "cancelled"


def released_in(request: Request) -> int:
    """Return how many tokens of an answer a device made final alone."""
    done = request.answer.done
    return 0 if done is None else sum(span.end - span.start for span in done.released)


def is_lost(request: Request) -> bool:
    """Whether the answer never ended, or ended without something that was shown before."""
    return request.answer.ended_at is None or request.answer.falls_short


def complaints_about(name: str, request: Request, *, identical: bool | None) -> list[str]:
    """Return what is wrong with a request, in sentences; `identical` is None where there is nothing to compare."""
    answer = request.answer
    said = [*answer.again, *answer.wrong]
    if answer.ended_at is None:
        said.append(f"never ended; {len(answer.tokens)} tokens came")
    if answer.failed is not None:
        said.append(f"failed ({answer.failed.code}): {answer.failed.message}")
    if answer.falls_short:
        said.append("the end leaves out what was shown before")
    if identical is False and not answer.wrong:
        said.append("the text is not what the target alone writes")
    return [f"{name} on {request.device}: {each}" for each in said]


# Faults -----------------------------------------------------------------------------------------------------------


def strikes_of(logs: Logs) -> list[Struck]:
    """Return the faults that strike one victim, in the order in which they were carried out."""
    verbs = {"killed": "kill", "frozen": "freeze"}
    struck = [
        Struck(event.at, f"{verbs[event.what]} {event.role}", event.name)
        for event in logs.processes
        if event.what in verbs
    ]
    breaks = {"cut": "cut", "held": "hold"}
    for name, events in logs.links.items():
        struck += [
            Struck(event.at, breaks[event.what], name)
            for event in events
            if isinstance(event, Changed) and event.what in breaks
        ]
    return sorted(struck, key=lambda each: each.at)


class Sent(msgspec.Struct, frozen=True):
    """To whom a device sent its bundles: times, and the verifiers at these."""

    times: list[float]
    verifiers: list[str]

    def last(self, since: float, until: float) -> str:
        """Return to whom the last bundle between two times went; empty if there was none."""
        place = bisect_right(self.times, until)
        return self.verifiers[place - 1] if place and self.times[place - 1] > since else ""

    @property
    def moves(self) -> int:
        """How often it was another one than before."""
        return sum(one != other for one, other in zip(self.verifiers, self.verifiers[1:], strict=False))


def sent_by(events: Iterable[LinkEvent]) -> Sent:
    """Return to whom a device sent its bundles, by the log of its link."""
    sent = Sent([], [])
    for event in events:
        if isinstance(event, Published) and event.way == "up":
            topic = _parse(event.topic)
            if topic is not None and topic.family is Family.DRAFT:
                sent.times.append(event.at)
                sent.verifiers.append(topic.verifier)
    return sent


def _parse(topic: str) -> Topic | None:
    try:
        return Topics().parse(topic)
    except WireError:
        return None


def affected_by(struck: Struck, requests: Iterable[Request], sent: Mapping[str, Sent]) -> list[Request]:
    """Return the requests that a fault affects; see the module."""

    def concerns(request: Request) -> bool:
        if struck.kind.endswith("broker"):
            return True
        if struck.kind.endswith("verifier"):
            return sent[request.device].last(request.asked_at, struck.at) == struck.name
        return request.device == struck.name

    return [request for request in requests if request.under_way(struck.at) and concerns(request)]


def recovery_of(times: Sequence[float], affected: int) -> Recovery:
    """Sum up recovery times; where there are none, median and p95 are 0."""
    ordered = sorted(times)
    if not ordered:
        return Recovery(affected, 0.0, 0.0)
    return Recovery(affected, round(median(ordered), 3), round(ordered[math.ceil(0.95 * len(ordered)) - 1], 3))


def recoveries(struck: Iterable[Struck], requests: Sequence[Request], sent: Mapping[str, Sent]) -> dict[str, Recovery]:
    """Return the recovery times of all faults together, as `all`, and by kind."""
    times: defaultdict[str, list[float]] = defaultdict(list)
    affected: Counter[str] = Counter(all=0)
    for each in struck:
        for request in affected_by(each, requests, sent):
            for kind in ("all", each.kind):
                affected[kind] += 1
                resumed = request.resumed(each.at)
                if resumed is not None:
                    times[kind].append(resumed)
    return {kind: recovery_of(times[kind], count) for kind, count in sorted(affected.items())}


# All together -----------------------------------------------------------------------------------------------------


def check(logs: Logs, target: Target) -> Result:
    """Return what a run came to.

    Args:
        logs: all that was written in it.
        target: is asked about each completed answer.
    """
    requests, complaints = requests_of(logs.app)
    completed = {name: request for name, request in requests.items() if is_completed(request)}
    released = {name: request for name, request in completed.items() if released_in(request)}
    same = {
        name: target.identical(request) and not request.answer.wrong
        for name, request in completed.items()
        if name not in released
    }
    for name, request in requests.items():
        complaints += complaints_about(name, request, identical=same.get(name))
    missing = logs.run.plan.requests - len(requests)
    if missing:
        complaints.append(f"{missing} requests were never asked")
    struck = strikes_of(logs)
    sent = {name: sent_by(events) for name, events in logs.links.items()}
    answers = [request.answer for request in requests.values()]
    ends = [answer.ended_at for answer in answers if answer.ended_at is not None]
    return Result(
        requests=logs.run.plan.requests,
        completed=len(completed),
        identical=sum(same.values()),
        lost=missing + sum(is_lost(request) for request in requests.values()),
        duplicated=sum(bool(answer.again) for answer in answers),
        revised_tokens=sum(answer.revised for answer in answers),
        released_tokens=sum(map(released_in, requests.values())),
        unlike_tokens=sum(map(target.unlike, released.values())),
        released_requests=len(released),
        failed=sum(answer.failed is not None for answer in answers),
        kills=_by_role(logs.processes, "killed"),
        freezes=_by_role(logs.processes, "frozen"),
        cuts=sum(each.kind == "cut" for each in struck),
        holds=sum(each.kind == "hold" for each in struck),
        published=_packets(logs.links.values(), lambda event: event.way == "up"),
        dropped=_packets(logs.links.values(), lambda event: event.fate == "dropped"),
        duplicates=_packets(logs.links.values(), lambda event: event.fate == "duplicated"),
        asked_again=sum(request.asked_again for request in requests.values()),
        repeats=sum(answer.repeats for answer in answers),
        moved=sum(each.moves for each in sent.values()),
        resends=sum(answer.done.statistics.resends for answer in answers if answer.done is not None),
        tokens=sum(answer.done.statistics.tokens for answer in answers if answer.done is not None),
        recovery=recoveries(struck, list(requests.values()), sent),
        use=use_of(logs.samples),
        seconds=round(max(ends) - min(request.asked_at for request in requests.values()), 3) if ends else 0.0,
        seed=logs.run.plan.seed,
        complaints=complaints[:SHOWN],
    )


def _by_role(events: Iterable[Done], what: str) -> dict[str, int]:
    counted = Counter(event.role for event in events if event.what == what)
    return {role: counted[role] for role in ("agent", "verifier", "broker")}


def _packets(links: Iterable[Sequence[LinkEvent]], counts: Callable[[Published], bool]) -> dict[str, int]:
    topics = (
        _parse(event.topic) for events in links for event in events if isinstance(event, Published) and counts(event)
    )
    return dict(sorted(Counter("other" if topic is None else topic.family.name.lower() for topic in topics).items()))
