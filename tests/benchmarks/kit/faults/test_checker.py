"""Every counter counts: logs made by hand, right but for one thing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest

from benchmarks.kit.error import BenchError
from benchmarks.kit.faults.checker import Recovery, Request, Result, check, released_in
from benchmarks.kit.faults.logs import (
    AppEvent,
    Asked,
    Began,
    Done,
    Ended,
    Heard,
    JsonLines,
    Logs,
    Run,
    read_logs,
    write_run,
)
from benchmarks.kit.faults.plan import Plan
from benchmarks.kit.link_log import Changed, LinkEvent, Published
from schemas import codec
from schemas.messages import Ask, DoneEvent, ErrorEvent, ReleasedRange, ReviseEvent, Statistics, TokenEvent

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from schemas.messages import AnswerEvent

RUN = Run(plan=Plan(devices=2, requests=2, seed=5), target="target", drafters=("lookup",))
TWO = Statistics(1, 4, 2, 2, 2, 0, 0, 0, 0, 0)


def ask(number: int, *, revise: bool = False) -> Asked:
    return Asked(10.0 + number, f"device-{number}", Ask(id=f"request-{number}", prompt="abc", revise=revise))


def heard(at: float, number: int, event: AnswerEvent) -> Heard:
    return Heard(at, f"device-{number}", event.request, codec.encode_json(event).decode())


def token(number: int, sequence: int, index: int, text: str, *, provisional: bool = False) -> TokenEvent:
    """An event of single-letter tokens."""
    return TokenEvent(f"request-{number}", sequence, index, index, text, tuple(map(ord, text)), provisional=provisional)


def done(number: int, sequence: int, text: str = "wxyz", released: tuple[ReleasedRange, ...] = ()) -> DoneEvent:
    return DoneEvent(f"request-{number}", sequence, text, "length", not released, released, TWO)


def answers() -> list[AppEvent]:
    """Two requests, each on a device of its own, answered in two pieces."""
    events: list[AppEvent] = [Began(10.0)]
    for number in (1, 2):
        events += [
            ask(number),
            heard(20.0 + number, number, token(number, 0, 0, "wx")),
            heard(30.0 + number, number, token(number, 1, 2, "yz")),
            heard(30.5 + number, number, done(number, 2)),
        ]
    return sorted([*events, Ended(40.0)], key=lambda event: event.at)


def bundle(at: float, number: int, verifier: str, fate: str = "passed") -> Published:
    topic = f"sled/v1/device/device-{number}/draft/{verifier}"
    return msgspec.convert(
        {"event": "published", "at": at, "way": "up", "topic": topic, "bytes": 9, "fate": fate}, Published
    )


class Told:
    """A target that says what it is told to, and likes only the first released token of an answer."""

    def __init__(self, identical: Callable[[Request], bool]) -> None:
        self.identical = identical

    def unlike(self, request: Request) -> int:
        return released_in(request) - 1


def result(
    app: list[AppEvent] | None = None,
    processes: list[Done] | None = None,
    links: dict[str, list[LinkEvent]] | None = None,
    identical: Callable[[Request], bool] = lambda _: True,
) -> Result:
    links = {"device-1": [], "device-2": []} | (links or {})
    logs = Logs(RUN, answers() if app is None else app, processes or [], [], links)
    return check(logs, Told(identical))


def changed(old: int, *new: AppEvent) -> list[AppEvent]:
    """The answers with one event, counted from 0, replaced by others."""
    events = answers()
    events[old : old + 1] = new
    return sorted(events, key=lambda event: event.at)


LAST = -2
"""The `done` event of the second request."""


def test_all_is_well() -> None:
    found = result()
    assert found.good
    assert (found.requests, found.completed, found.identical, found.lost, found.duplicated) == (2, 2, 2, 0, 0)
    assert (found.tokens, found.seconds, found.seed, found.complaints) == (8, 21.5, 5, [])
    assert found.recovery == {"all": Recovery(0, 0.0, 0.0)}


def test_bundles_sent_again_are_counted() -> None:
    busy = msgspec.structs.replace(done(2, 2), statistics=msgspec.structs.replace(TWO, resends=7))
    found = result(changed(len(answers()) + LAST, heard(32.5, 2, busy)))
    assert (found.resends, found.good) == (7, True)
    assert result().resends == 0


@pytest.mark.parametrize(
    "strange",
    [
        Heard(33.0, "device-2", "request-2", "no JSON"),
        Heard(33.0, "device-2", "request-9", codec.encode_json(done(9, 0)).decode()),
    ],
    ids=["unreadable", "of no request"],
)
def test_what_there_is_to_complain_of_is_not_good(strange: Heard) -> None:
    found = result([*answers(), strange])
    assert (found.completed, found.identical, found.lost, found.duplicated) == (2, 2, 0, 0)
    assert len(found.complaints) == 1
    assert not found.good


def test_release_is_no_excuse_for_saying_something_else_than_before() -> None:
    events = changed(7, heard(32.0, 2, TokenEvent("request-2", 1, 1, 1, "!yz", tuple(b"!yz"))))
    events[-2:-1] = [heard(32.5, 2, done(2, 2, released=(ReleasedRange(1, 4),)))]
    found = result(events)
    assert (found.completed, found.strange, found.released_requests) == (2, 0, 1)
    assert not found.good


def test_a_text_that_is_not_the_targets() -> None:
    found = result(identical=lambda request: request.device == "device-1")
    assert (found.completed, found.identical, found.good) == (2, 1, False)
    assert "not what the target" in found.complaints[0]


def test_an_answer_that_never_ends_is_lost() -> None:
    found = result(changed(len(answers()) + LAST))
    assert (found.completed, found.lost, found.good) == (1, 1, False)
    assert found.complaints == ["request-2 on device-2: never ended; 4 tokens came"]


def test_a_request_that_was_never_asked_is_lost() -> None:
    found = result([event for event in answers() if "2" not in getattr(event, "device", "")])
    assert (found.requests, found.completed, found.lost, found.good) == (2, 1, 1, False)


def test_an_end_that_leaves_out_what_was_shown_is_lost() -> None:
    found = result(changed(len(answers()) + LAST, heard(32.5, 2, done(2, 2, "wxy"))))
    assert (found.completed, found.lost, found.good) == (2, 1, False)


def test_an_error_is_no_completed_answer() -> None:
    failed = ErrorEvent("request-2", 2, "overloaded", "too much")
    found = result(changed(len(answers()) + LAST, heard(32.5, 2, failed)))
    assert (found.completed, found.failed, found.lost, found.good) == (1, 1, 0, False)


def test_a_cancelled_answer_is_not_completed() -> None:
    cancelled = msgspec.structs.replace(done(2, 2), finish_reason="cancelled")
    assert result(changed(len(answers()) + LAST, heard(32.5, 2, cancelled))).completed == 1


@pytest.mark.parametrize("again", [done(2, 3), token(2, 1_000_000, 0, "wx")])
def test_what_comes_after_the_end_under_a_new_number_is_duplicated(again: AnswerEvent) -> None:
    found = result(sorted([*answers(), heard(33.0, 2, again)], key=lambda event: event.at))
    assert (found.completed, found.duplicated, found.good) == (2, 1, False)


def test_text_shown_twice_is_duplicated() -> None:
    """The second piece comes once more, as if it were new."""
    twice = token(2, 2, 4, "yz")
    found = result(changed(len(answers()) + LAST, heard(32.2, 2, twice), heard(32.5, 2, done(2, 3))))
    assert found.duplicated + found.lost == 1
    assert not found.good


def test_what_an_app_drops_is_not_duplicated() -> None:
    """Messages that come twice, and the text so far from a restarted device."""
    events = [*answers(), heard(21.9, 1, token(1, 0, 0, "wx")), heard(33.0, 1, done(1, 2))]
    events += [heard(22.5, 2, token(2, 1_000_000, 0, "wx"))]
    events[events.index(heard(32.0, 2, token(2, 1, 2, "yz")))] = heard(32.0, 2, token(2, 1_000_001, 2, "yz"))
    events[events.index(heard(32.5, 2, done(2, 2)))] = heard(32.5, 2, done(2, 1_000_002))
    found = result(sorted(events, key=lambda event: event.at))
    assert found.good
    assert (found.duplicated, found.repeats) == (0, 2)


def test_a_restarted_device_may_say_everything_again() -> None:
    again = [heard(32.2, 2, token(2, 1_000_000, 0, "wxyz")), heard(32.5, 2, done(2, 1_000_001))]
    texts: list[str] = []

    def identical(request: Request) -> bool:
        texts.append(request.answer.text)
        return True

    assert result(changed(len(answers()) + LAST, *again), identical=identical).good
    assert texts == ["wxyz", "wxyz"]


def test_tokens_of_an_event_that_comes_late_are_known() -> None:
    """It is no longer shown, but it need not be made up to compare the text."""
    late = heard(32.2, 2, token(2, 0, 0, "wx"))
    kept: dict[str, dict[int, int]] = {}

    def identical(request: Request) -> bool:
        kept[request.device] = request.answer.tokens
        return True

    assert result(changed(4, late), identical=identical).good
    assert kept["device-2"] == dict(enumerate(b"wxyz"))


def test_a_lost_piece_is_made_good_by_the_end() -> None:
    events = [event for event in answers() if event != heard(22.0, 2, token(2, 0, 0, "wx"))]
    kept: dict[str, dict[int, int]] = {}

    def identical(request: Request) -> bool:
        kept[request.device] = request.answer.tokens
        return True

    assert result(events, identical=identical).good
    assert kept == {"device-1": dict(enumerate(b"wxyz")), "device-2": {2: ord("y"), 3: ord("z")}}


def test_other_text_where_something_was_final_is_not_identical() -> None:
    events = changed(7, heard(32.0, 2, TokenEvent("request-2", 1, 1, 1, "!yz", tuple(b"!yz"))))
    found = result(events)
    assert (found.completed, found.identical, found.good) == (2, 1, False)
    assert len(found.complaints) == 2


def test_revised_tokens_are_counted_where_the_app_takes_text_back() -> None:
    def told(*, revise: bool) -> Result:
        return result(
            [
                ask(1),
                ask(2, revise=revise),
                *(
                    event
                    for event in answers()
                    if getattr(event, "device", "") == "device-1" and isinstance(event, Heard)
                ),
                heard(22.0, 2, token(2, 0, 0, "w")),
                heard(23.0, 2, token(2, 1, 1, "x!!", provisional=True)),
                heard(24.0, 2, token(2, 2, 1, "x")),
                heard(25.0, 2, ReviseEvent("request-2", 3, 2, 2, "yz", tuple(b"yz"))),
                heard(26.0, 2, done(2, 4)),
            ]
        )

    found = told(revise=True)
    assert found.good
    assert found.revised_tokens == 2
    assert told(revise=False).identical == 1


def test_a_lost_revise_event_harms_nothing() -> None:
    found = result(
        [
            ask(1),
            ask(2, revise=True),
            *(event for event in answers() if getattr(event, "device", "") == "device-1" and isinstance(event, Heard)),
            heard(23.0, 2, token(2, 0, 0, "wx!!", provisional=True)),
            heard(25.0, 2, token(2, 2, 3, "z")),
            heard(26.0, 2, done(2, 3)),
        ]
    )
    assert found.good
    assert found.revised_tokens == 1


def test_released_tokens_are_counted() -> None:
    events = changed(len(answers()) + LAST, heard(32.5, 2, done(2, 2, released=(ReleasedRange(1, 4),))))
    found = result(events, identical=lambda request: request.device == "device-1")
    assert (found.released_tokens, found.unlike_tokens, found.released_requests) == (3, 2, 1)
    assert (found.completed, found.identical, found.strange, found.good) == (2, 1, 0, True)
    assert not result(events, identical=lambda _: False).good, "the other one has no excuse"


def test_answers_nobody_asked_for_and_events_that_cannot_be_read_are_told() -> None:
    strange = [heard(12.5, 1, token(2, 0, 0, "w")), Heard(12.6, "device-1", "request-1", "{")]
    found = result(sorted([*answers(), *strange], key=lambda event: event.at))
    assert len(found.complaints) == 2
    assert "was not asked" in found.complaints[0]
    assert "cannot be read" in found.complaints[1]


def test_asking_again_is_counted() -> None:
    events = sorted([*answers(), Asked(15.0, "device-1", ask(1).ask, "silence")], key=lambda event: event.at)
    found = result(events)
    assert found.asked_again == 1
    assert found.seconds == 21.5


# Faults -----------------------------------------------------------------------------------------------------------


def struck(at: float, what: str, role: str, name: str) -> Done:
    return msgspec.convert({"event": "process", "at": at, "role": role, "name": name, "pid": 1, "what": what}, Done)


def test_faults_are_counted_as_they_were_carried_out() -> None:
    processes = [
        struck(1.0, "started", "agent", "device-1"),
        struck(12.5, "killed", "agent", "device-1"),
        struck(13.0, "killed", "verifier", "verifier-1"),
        struck(13.5, "killed", "verifier", "verifier-2"),
        struck(14.0, "frozen", "verifier", "verifier-1"),
        struck(15.0, "thawed", "verifier", "verifier-1"),
        struck(39.0, "ended", "broker", "broker"),
    ]
    links: dict[str, list[LinkEvent]] = {
        "device-1": [Changed(13.0, "cut"), Changed(14.0, "mended"), bundle(15.0, 1, "verifier-1", "dropped")],
        "device-2": [Changed(13.0, "held"), Changed(14.0, "resumed"), bundle(15.0, 2, "verifier-1", "duplicated")],
    }
    found = result(processes=processes, links=links)
    assert found.kills == {"agent": 1, "verifier": 2, "broker": 0}
    assert found.freezes == {"agent": 0, "verifier": 1, "broker": 0}
    assert (found.cuts, found.holds) == (1, 1)
    assert (found.dropped, found.duplicates) == ({"draft": 1}, {"draft": 1})


def test_recovery_is_from_the_fault_to_the_next_token_of_what_it_affects() -> None:
    links: dict[str, list[LinkEvent]] = {
        "device-1": [bundle(13.0, 1, "verifier-1"), Changed(24.0, "cut"), bundle(26.0, 1, "verifier-2")],
        "device-2": [bundle(13.0, 2, "verifier-2")],
    }
    processes = [
        struck(14.0, "killed", "verifier", "verifier-1"),  # device-1 had sent it its last bundle: 21 - 14
        struck(25.0, "killed", "broker", "broker"),  # both: 31 - 25, 32 - 25
        struck(31.2, "frozen", "verifier", "verifier-2"),  # both, before their last event: 31.5 - 31.2, 32 - 31.2
        struck(35.0, "killed", "agent", "device-1"),  # nothing was under way any more
    ]
    found = result(processes=processes, links=links)
    assert found.recovery["kill verifier"] == Recovery(1, 7.0, 7.0)
    assert found.recovery["kill broker"] == Recovery(2, 6.5, 7.0)
    assert found.recovery["freeze verifier"] == Recovery(2, 0.55, 0.8)
    assert found.recovery["cut"] == Recovery(1, 7.0, 7.0)  # of device-1: 31 - 24
    assert "kill agent" not in found.recovery
    assert found.recovery["all"] == Recovery(6, 6.5, 7.0)
    assert found.moved == 1


def test_a_verifier_is_not_blamed_for_a_request_it_was_not_sent() -> None:
    """The last bundle to it was of the request before."""
    links: dict[str, list[LinkEvent]] = {"device-1": [bundle(9.0, 1, "verifier-1")]}
    found = result(processes=[struck(14.0, "killed", "verifier", "verifier-1")], links=links)
    assert found.recovery == {"all": Recovery(0, 0.0, 0.0)}


def test_what_never_goes_on_is_affected_and_has_no_time() -> None:
    events = [event for event in answers() if not (isinstance(event, Heard) and event.device == "device-1")]
    found = result(events, processes=[struck(14.0, "killed", "agent", "device-1")])
    assert found.recovery["kill agent"] == Recovery(1, 0.0, 0.0)
    assert found.lost == 1


# Files ------------------------------------------------------------------------------------------------------------


def written(folder: Path) -> Path:
    write_run(folder, RUN)
    with JsonLines(folder / "app.jsonl") as app:
        for event in answers():
            app.add(event)
    with JsonLines(folder / "process-broker.jsonl") as log:
        log.add(struck(1.0, "started", "broker", "broker"))
    for name in RUN.plan.device_names:
        with JsonLines(folder / f"link-{name}.jsonl") as link:
            link.add(Changed(2.0, "cut"))
            link.add(bundle(1.0, 1, "verifier-1"))
    return folder


def test_what_was_written_is_read(tmp_path: Path) -> None:
    logs = read_logs(written(tmp_path / "logs"))
    assert logs.run == RUN
    assert logs.app == answers()
    assert logs.processes == [struck(1.0, "started", "broker", "broker")]
    assert logs.links["device-2"] == [bundle(1.0, 1, "verifier-1"), Changed(2.0, "cut")], "in the order of time"


def test_a_folder_with_a_log_takes_no_other(tmp_path: Path) -> None:
    written(tmp_path)
    with pytest.raises(BenchError, match="another run"):
        write_run(tmp_path, RUN)
    (tmp_path / "file").write_text("")
    with pytest.raises(BenchError, match="give another --out"):
        write_run(tmp_path / "file", RUN)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("run.json", None, "cannot be read"),
        ("run.json", b"{}", "is not what `sled bench faults` writes"),
        ("app.jsonl", None, "cannot be read"),
        ("app.jsonl", b'{"event":"began","at":1.0}\n{"event":"sung"}\n', "line 2 of"),
        ("app.jsonl", b'{"event":"began","at":1.0}\n{"event":"ended","a', "was cut short"),
        ("link-device-2.jsonl", None, "the log of the link of device-2 is missing"),
        ("process-broker.jsonl", None, "the logs of the processes"),
    ],
)
def test_a_damaged_log_is_said(name: str, content: bytes | None, words: str, tmp_path: Path) -> None:
    path = written(tmp_path) / name
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(BenchError, match=words):
        read_logs(tmp_path)
