"""Whatever the link does and whoever crashes: the committed log is the target's own text, and every session ends."""

from __future__ import annotations

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from edge_agent.outage import OutageMode, OutageRules
from tests.pair.world import WAYS, World

RUNS = st.sampled_from([0, 0, 1, 5])
POLICIES = st.sampled_from(
    ["fixed:1", "fixed:3", "fixed:8", "confidence:0.5:6", "cost-aware", "cost-aware", "cost-aware:3"]
)
OUTAGES = st.builds(OutageRules, st.sampled_from(OutageMode), st.sampled_from([1, 2, 3]))
PLACES = st.sampled_from([(8, 65_536), (8, 65_536), (2, 65_536), (1, 65_536), (1, 1)])
"""Sessions that a verifier serves at once, and how many others it remembers."""
STOPS = st.sampled_from([(), (), ("ä",), ("ab", "E a")])


class Pair(RuleBasedStateMachine):
    """Hypothesis is the adversary: it decides everything that can happen, in any order."""

    world: World

    @initialize(ties=st.booleans(), places=PLACES, policy=POLICIES, run=RUNS, outage=OUTAGES)
    def begin(self, ties: bool, places: tuple[int, int], policy: str, run: int, outage: OutageRules) -> None:
        capacity, memory = places
        self.world = World(ties=ties, capacity=capacity, memory=memory)
        self.world.ask(5, 30, policy, run=run, outage=outage, revise=True)

    @precondition(lambda self: len(self.world.spool) < 4)
    @rule(
        length=st.integers(1, 9),
        most=st.integers(1, 40),
        policy=POLICIES,
        run=RUNS,
        outage=OUTAGES,
        revise=st.booleans(),
        stop=STOPS,
    )
    def ask(
        self, length: int, most: int, policy: str, run: int, outage: OutageRules, revise: bool, stop: tuple[str, ...]
    ) -> None:
        self.world.ask(length, most, policy, run=run, outage=outage, revise=revise, stop=stop)

    @precondition(lambda self: self.world.up)
    @rule(data=st.data(), keep=st.booleans())
    def message_reaches_verifier(self, data: st.DataObject, keep: bool) -> None:
        self.world.arrive_up(data.draw(st.integers(0, len(self.world.up) - 1)), keep=keep)

    @precondition(lambda self: self.world.down)
    @rule(data=st.data(), keep=st.booleans())
    def message_reaches_agent(self, data: st.DataObject, keep: bool) -> None:
        self.world.arrive_down(data.draw(st.integers(0, len(self.world.down) - 1)), keep=keep)

    @precondition(lambda self: self.world.up)
    @rule(data=st.data())
    def message_to_verifier_is_lost(self, data: st.DataObject) -> None:
        self.world.lose_up(data.draw(st.integers(0, len(self.world.up) - 1)))

    @precondition(lambda self: self.world.down)
    @rule(data=st.data())
    def message_to_agent_is_lost(self, data: st.DataObject) -> None:
        self.world.lose_down(data.draw(st.integers(0, len(self.world.down) - 1)))

    @rule()
    def everything_arrives(self) -> None:
        while self.world.up:
            self.world.arrive_up(0)
        for name in self.world.verifiers:
            while self.world.verify(name):
                pass
        while self.world.down:
            self.world.arrive_down(0)

    @rule(name=st.sampled_from(["v0", "v1"]), pick=st.integers(0, 3), tie=st.integers(0, 1))
    def engine_steps(self, name: str, pick: int, tie: int) -> None:
        self.world.verify(name, pick=pick, tie=tie)

    @precondition(lambda self: self.world.drafts)
    @rule(data=st.data(), right=st.sampled_from([True, False, None]), times=st.integers(1, 8))
    def drafter_drafts(self, data: st.DataObject, right: bool | None, times: int) -> None:
        session = data.draw(st.sampled_from(sorted(self.world.drafts)))
        for _ in range(times):
            self.world.draft(session, right=right)

    @rule(way=st.sampled_from(WAYS), guesses=st.lists(st.sampled_from([True, True, False]), max_size=25))
    def outage_lasts(self, way: str, guesses: list[bool]) -> None:
        self.world.suffer(way, guesses)

    @rule(seconds=st.sampled_from([0.01, 0.3, 0.6, 2.5, 40.0]))
    def time_passes(self, seconds: float) -> None:
        self.world.sleep(seconds)

    @rule()
    def link_breaks(self) -> None:
        self.world.cut()

    @rule()
    def link_mends(self) -> None:
        self.world.mend()

    @rule(name=st.sampled_from(["v0", "v1", None]), at_leisure=st.booleans())
    def agent_is_placed(self, name: str | None, at_leisure: bool) -> None:
        self.world.place(name, at_leisure=at_leisure)

    @rule()
    def agent_crashes(self) -> None:
        self.world.start_agent()

    @rule(effects=st.integers(0, 5))
    def agent_will_crash_midway(self, effects: int) -> None:
        self.world.crash_after = effects

    @rule(name=st.sampled_from(["v0", "v1"]))
    def verifier_crashes(self, name: str) -> None:
        self.world.start_verifier(name)

    @precondition(lambda self: self.world.sessions)
    @rule(data=st.data())
    def app_cancels(self, data: st.DataObject) -> None:
        self.world.cancel(data.draw(st.sampled_from(sorted(self.world.sessions))))

    @precondition(lambda self: self.world.sessions)
    @rule(data=st.data())
    def context_is_refreshed(self, data: st.DataObject) -> None:
        self.world.refresh(data.draw(st.sampled_from(sorted(self.world.sessions))))

    @precondition(lambda self: self.world.sessions)
    @rule(data=st.data())
    def somebody_clears_the_context(self, data: st.DataObject) -> None:
        self.world.steal(data.draw(st.sampled_from(sorted(self.world.sessions))))

    @invariant()
    def log_is_the_targets_text(self) -> None:
        if hasattr(self, "world"):
            self.world.check()

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.world.settle()
            self.world.check()
            self.world.check_ended()


Pair.TestCase.settings = settings(
    max_examples=400, stateful_step_count=60, deadline=None, suppress_health_check=list(HealthCheck)
)
TestPair = Pair.TestCase
