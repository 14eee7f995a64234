"""What is cleared, and when, by the reader's own clock."""

from __future__ import annotations

from msgspec.structs import replace

from schemas import codec
from schemas.messages import VERSION, AgentState, SessionContext, VerifierState
from schemas.topics import Topics
from sled.sweeper import LEAST_LIFE, Finding, Sweeper
from tests.schemas.samples import CONTEXT

TOPICS = Topics()
SESSION = TOPICS.session("pi", CONTEXT.session)
HOUR = 3600.0


def payload(*, revision: int = 2, ttl: float = HOUR) -> bytes:
    return codec.encode(replace(CONTEXT, revision=revision, ttl=round(ttl * 1e6)))


def device(status: str) -> bytes:
    return codec.encode_json(AgentState(VERSION, status, "boot"))  # type: ignore[arg-type]


def verifier(heartbeat: int, status: str = "online") -> bytes:
    return codec.encode_json(VerifierState(VERSION, status, "boot", heartbeat=heartbeat))  # type: ignore[arg-type]


def topics(findings: list[Finding]) -> list[str]:
    return [finding.topic for finding in findings]


def test_the_clock_of_a_context_starts_at_first_sight() -> None:
    sweeper = Sweeper(TOPICS)
    sweeper.seen(SESSION, payload(), retain=True, now=1000.0)
    assert sweeper.next_due() == 1000.0 + HOUR
    assert sweeper.due(1000.0 + HOUR - 0.1) == []
    (finding,) = sweeper.due(1000.0 + HOUR)
    assert finding == Finding(SESSION, "expired", "device pi has not refreshed this session for 3600 s", clear=True)
    assert sweeper.due(1e9) == []  # each is told once
    assert sweeper.next_due() is None


def test_a_context_published_anew_is_fresh() -> None:
    """As it was, or with another revision; what the broker repeats to a new subscription is neither."""
    sweeper = Sweeper(TOPICS)
    sweeper.seen(SESSION, payload(), retain=True, now=0.0)
    sweeper.seen(SESSION, payload(), retain=False, now=1000.0)
    assert sweeper.next_due() == 1000.0 + HOUR
    sweeper.seen(SESSION, payload(), retain=True, now=2000.0)
    assert sweeper.next_due() == 1000.0 + HOUR
    sweeper.seen(SESSION, payload(revision=3), retain=True, now=3000.0)
    assert sweeper.next_due() == 3000.0 + HOUR
    assert sweeper.due(1000.0 + HOUR) == []


def test_one_that_comes_back_is_watched_anew() -> None:
    sweeper = Sweeper(TOPICS)
    sweeper.seen(SESSION, payload(), retain=True, now=0.0)
    assert topics(sweeper.due(HOUR)) == [SESSION]
    sweeper.seen(SESSION, b"", retain=False, now=HOUR)
    assert len(sweeper) == 0
    sweeper.seen(SESSION, payload(), retain=False, now=HOUR)
    assert sweeper.due(2 * HOUR - 0.1) == []
    assert topics(sweeper.due(2 * HOUR)) == [SESSION]


def test_a_lost_connection_begins_anew() -> None:
    """Who was away cannot say that nobody has published meanwhile."""
    sweeper = Sweeper(TOPICS)
    sweeper.seen(SESSION, payload(), retain=True, now=0.0)
    sweeper.forget()
    assert sweeper.due(HOUR) == []
    sweeper.seen(SESSION, payload(), retain=True, now=HOUR)
    assert sweeper.due(2 * HOUR - 0.1) == []
    assert topics(sweeper.due(2 * HOUR)) == [SESSION]


def test_times_to_live() -> None:
    """Its own, times the factor, and never less than a minute."""
    sweeper = Sweeper(TOPICS, ttl_factor=0.5)
    for number, ttl in enumerate((0.0, 200.0, 2 * HOUR)):
        context: SessionContext = replace(CONTEXT, session=bytes([number] * 8), ttl=round(ttl * 1e6))
        sweeper.seen(TOPICS.session("pi", context.session), codec.encode(context), retain=True, now=0.0)
    assert [len(sweeper.due(now)) for now in (LEAST_LIFE - 0.1, LEAST_LIFE, 99.9, 100.0, HOUR - 0.1, HOUR)] == [
        0, 1, 0, 1, 0, 1,
    ]  # fmt: skip


def test_states_are_left_unless_asked_for() -> None:
    sweeper = Sweeper(TOPICS)
    sweeper.seen(TOPICS.device_state("pi"), device("offline"), retain=True, now=0.0)
    sweeper.seen(TOPICS.verifier_state("desk"), verifier(1, "offline"), retain=True, now=0.0)
    assert (sweeper.next_due(), sweeper.due(1e9)) == (None, [])


def test_states_of_the_departed() -> None:
    """A device says only that it goes; a verifier that is there says so all the time."""
    sweeper = Sweeper(TOPICS, offline_after=600.0)
    here, gone, desk, dead = (
        TOPICS.device_state("here"), TOPICS.device_state("gone"),
        TOPICS.verifier_state("desk"), TOPICS.verifier_state("dead"),
    )  # fmt: skip
    sweeper.seen(here, device("online"), retain=True, now=0.0)
    sweeper.seen(gone, device("offline"), retain=True, now=0.0)
    sweeper.seen(dead, verifier(7), retain=True, now=0.0)
    for now in range(0, 601, 5):
        sweeper.seen(desk, verifier(now), retain=False, now=float(now))
    findings = sweeper.due(600.0)
    assert [(finding.topic, finding.reason, finding.clear) for finding in findings] == [
        (gone, "offline", True), (dead, "offline", True),
    ]  # fmt: skip
    assert findings[0].sentence == "device gone has been offline for 600 s"
    assert findings[1].sentence == "verifier dead has announced nothing for 600 s"
    sweeper.seen(gone, device("online"), retain=False, now=700.0)
    assert sweeper.next_due() == 600.0 + 600.0  # the verifier that is there


def test_what_nobody_can_read() -> None:
    """It is told at once, and cleared only where asked for."""
    for malformed in (False, True):
        sweeper = Sweeper(TOPICS, malformed=malformed)
        bad = {
            SESSION: b"\xc1",
            TOPICS.device_state("pi"): b"{",
            TOPICS.verifier_state("desk"): b"\xff",
            TOPICS.ask("pi"): b"again and again at every connect",
        }
        for topic, content in bad.items():
            sweeper.seen(topic, content, retain=True, now=0.0)
        found = sweeper.due(0.0)
        assert {finding.topic for finding in found} == set(bad)
        assert {(finding.reason, finding.clear) for finding in found} == {("malformed", malformed)}


def test_what_is_not_ours_is_never_cleared() -> None:
    """Another version of the protocol, and topics of no part of it."""
    sweeper = Sweeper(TOPICS, malformed=True)
    sweeper.seen(SESSION, codec.encode(replace(CONTEXT, version=VERSION + 1)), retain=True, now=0.0)
    sweeper.seen("sled/v1/enroll/request", b"x", retain=True, now=0.0)
    assert [(finding.reason, finding.clear) for finding in sweeper.due(0.0)] == [("foreign", False)] * 2


def test_traffic_passes_by() -> None:
    sweeper = Sweeper(TOPICS, malformed=True)
    for topic in (TOPICS.ask("pi"), TOPICS.verdict("pi"), TOPICS.draft("pi", "desk"), TOPICS.answer("pi", "r")):
        sweeper.seen(topic, b"\xc1", retain=False, now=0.0)
    assert (len(sweeper), sweeper.due(1e9)) == (0, [])
