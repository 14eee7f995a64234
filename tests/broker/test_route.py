"""Which broker is used when, without any broker."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from broker.address import BrokerAddress
from broker.route import LOOKS, Route

A, B, C = BrokerAddress("a"), BrokerAddress("b"), BrokerAddress("c")


def route(*addresses: BrokerAddress, patience: float = 10.0) -> Route:
    made = Route(addresses, patience=patience, delays=(1.0, 30.0), stretch=lambda: 1.0)
    made.begin(0.0)
    return made


def attempts(route: Route, now: float, count: int) -> list[tuple[str, float]]:
    """Fail at once, again and again: which host is tried when."""
    tried = []
    for _ in range(count):
        now += route.failed(now)
        tried.append((route.address.host, now))
    return tried


def test_one_address_is_tried_for_ever_with_growing_delays() -> None:
    assert attempts(route(A), 0.0, 7) == [("a", t) for t in (1.0, 3.0, 7.0, 15.0, 31.0, 61.0, 91.0)]


def test_the_next_address_is_tried_within_the_patience() -> None:
    """Each address has its quick attempts once; then delays go on growing, and each is tried in turn."""
    assert attempts(route(A, B), 0.0, 9) == [
        ("a", 1.0), ("a", 3.0), ("a", 7.0), ("b", 8.0), ("b", 10.0), ("b", 14.0),
        ("a", 22.0), ("b", 38.0), ("a", 68.0),
    ]  # fmt: skip


def test_patience_may_be_short_at_first() -> None:
    """For an app whose user waits; once connected it must not leave a broker that others wait for."""
    hasty = Route((A, B), patience=10.0, first_patience=2.0, delays=(1.0, 30.0), stretch=lambda: 1.0)
    hasty.begin(0.0)
    assert [host for host, _ in attempts(hasty, 0.0, 2)] == ["a", "b"]
    hasty.connected(5.0)
    hasty.lost(5.0, 60.0)
    assert [host for host, _ in attempts(hasty, 6.0, 3)] == ["b", "b", "a"]


def test_a_lost_connection_is_first_tried_again_where_it_was() -> None:
    two = route(A, B)
    two.connected(0.0)
    assert two.lost(100.0, 60.0) == 1.0
    assert two.address == A
    assert [host for host, _ in attempts(two, 101.0, 3)] == ["a", "a", "b"]


def test_an_attempt_that_hangs_is_overdue() -> None:
    two = route(A, B)
    assert not two.overdue(10.0)
    assert two.overdue(10.1)
    two.connected(10.2)
    assert not two.overdue(1e6)
    assert not route(A).overdue(1e6)


def away() -> Route:
    """A route whose first broker died at 0, and which found the second at 20."""
    two = route(A, B)
    two.connected(0.0)
    two.lost(0.0, 60.0)
    attempts(two, 0.0, 4)
    assert two.address == B
    two.connected(20.0)
    return two


def test_a_preferred_broker_is_used_again_when_it_stays() -> None:
    """As often in a row as asked; one miss begins anew."""
    two = away()
    for reached in [True] * (LOOKS - 1) + [False] + [True] * (LOOKS - 1):
        two.visited(0, 30.0, reached=reached)
        assert two.better() is None
    two.visited(0, 90.0, reached=True)
    assert two.better() == 0
    two.move(0, 90.0)
    assert (two.address, two.better()) == (A, None)


def test_a_visit_is_owed_until_nothing_more_can_come() -> None:
    """What was left in good order is settled by one visit that the broker is there for."""
    two = away()
    assert two.to_visit() == [0]
    for _ in range(LOOKS):
        two.visited(0, 30.0, reached=True)
    two.move(0, 40.0)
    assert two.to_visit() == []  # nobody is visited before there is a connection
    two.connected(41.0)
    assert two.to_visit() == [1]
    two.visited(1, 42.0, reached=False)
    assert two.to_visit() == [1]
    two.visited(1, 43.0, reached=True)
    assert two.to_visit() == []
    assert two.is_first

    three = route(A, B, C)
    three.connected(0.0)
    assert three.to_visit() == [1, 2]  # perhaps used by an earlier process of this client
    three.visited(2, 0.0, reached=True)
    assert three.to_visit() == [1]


def test_a_last_will_may_come_after_a_visit() -> None:
    """The second broker breaks away, and the first is there again: until the will must have come, visits go on."""
    two = away()
    two.lost(50.0, linger=60.0)
    attempts(two, 50.0, 4)
    assert two.address == A
    two.connected(60.0)
    two.visited(1, 109.9, reached=True)
    assert two.to_visit() == [1]
    two.visited(1, 110.0, reached=True)
    assert two.to_visit() == []


@given(st.lists(st.sampled_from(["failed", "connected", "lost", "reached", "missed", "move"]), max_size=60))
def test_any_order_of_events_keeps_the_rules(events: list[str]) -> None:
    """Delays stay bounded, no visit goes to the broker in use, and only a preferred one calls back."""
    three, now, up = route(A, B, C), 0.0, False
    for event in events:
        now += 7.0
        match event:
            case "failed" if not up:
                now += (delay := three.failed(now))
                assert 1.0 <= delay <= 30.0
            case "connected" if not up:
                three.connected(now)
                up = True
            case "lost" if up:
                three.lost(now, 60.0)
                up = False
            case "reached" | "missed":
                for index in three.to_visit():
                    three.visited(index, now, reached=event == "reached")
            case "move" if (better := three.better()) is not None:
                three.move(better, now)
                up = False
        current = three.addresses.index(three.address)
        assert current not in three.to_visit()
        assert set(range(current)) <= set(three.to_visit()) or not up
        better = three.better()
        assert better is None or better < current
