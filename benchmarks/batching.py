"""How batching policies compare: tokens per second of all devices together, and time per token, in one run.

A real verifier with its target (in a process of its own) serves simulated devices over a real broker. Each device is a
real agent whose drafter knows what the target will say: it proposes that, or with a fixed chance something else, and
takes as long for a token as a small computer would, without computing anything. So all of the machine is the
verifier's, and every policy sees the same devices, prompts and mistakes.

The policies take turns, several times. In a turn every device asks one request after another, all of the same length
of output. What is counted begins when every device has been answered once, and ends after a fixed number of requests,
so that all policies do the same work with all devices busy.

    sled bench batching --policies continuous static:16 dynamic:8
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import queue
import random
import statistics
import sys
import threading
import time
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Final, Literal, Self

from transformers.utils.logging import disable_progress_bar

from broker.address import BrokerAddress
from broker.client import Bridge
from broker.run import start_broker
from edge_agent.drafters.drafter import Proposal
from edge_agent.policy import parse_policy
from edge_agent.service import Agent, AgentOptions
from edge_agent.spool import Spool
from edge_agent.tokenizer import ChatTokenizer
from models.pull import pull_target
from schemas import codec
from schemas.messages import GREEDY, Ask, DoneEvent, ErrorEvent, Statistics, TokenEvent
from schemas.topics import Topics
from sled.client import Client
from verifier.batching import parse_batching
from verifier.engine.checkpoint import DType, load_model
from verifier.engine.packed import PackedEngine
from verifier.engine.segment import Segment
from verifier.numerics import numerics_fingerprint
from verifier.service import Verifier, VerifierOptions
from verifier.tokenizer import target_tokenizer

if TYPE_CHECKING:
    from collections.abc import Sequence
    from multiprocessing.connection import Connection
    from pathlib import Path
    from types import TracebackType

    from broker.message import Message
    from schemas.messages import Sampling

_SENTENCES: Final = (
    "Tell me about the history of lighthouses and of the people who kept them.",
    "Write about a walk through a small town in the rain.",
    "Explain how bread is made, and why the dough rises.",
    "Describe a machine that sorts apples by their colour.",
    "The garden has six beds, a pond, an old pear tree and a bench where nobody sits in winter.",
    "My neighbour keeps bees and says that they know the weather better than the radio does.",
)
_POLICIES: Final = ("continuous", "static:16", "static:8", "dynamic:16", "dynamic:8")
_PATIENCE: Final = 120.0
"""Seconds without any event after which the run is given up."""
_SETTLE: Final = 0.15
"""Seconds between the first requests of two devices."""


# The verifier, in a process of its own ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Work:
    """What the engine has done: steps with bundles, the bundles in them, and the tokens fed, padding included."""

    steps: int = 0
    bundles: int = 0
    fed: int = 0

    def since(self, earlier: Work) -> Work:
        """Return what was done after `earlier`."""
        return Work(self.steps - earlier.steps, self.bundles - earlier.bundles, self.fed - earlier.fed)


@dataclass(frozen=True, slots=True)
class _Write:
    """Have the target alone write the outputs of these prompts, greedily."""

    prompts: list[list[int]]
    tokens: int


@dataclass(frozen=True, slots=True)
class _Serve:
    """Run a verifier with this batching policy until told otherwise."""

    batching: str
    address: BrokerAddress


_Command = _Write | _Serve | str
"""`count` asks for the work done, `stop` ends the verifier, `end` the process."""


class CountingEngine(PackedEngine):
    """The packed engine, counting what it does."""

    work = Work()

    def step(self, segments: Sequence[Segment]) -> list[list[int]]:
        """Count a step and run it."""
        bundles = sum(segment.choose > 0 for segment in segments)
        fed = sum(self.missing(each.session, each.tokens, each.choose) for each in segments)
        self.work = Work(self.work.steps + (bundles > 0), self.work.bundles + bundles, self.work.fed + fed)
        return super().step(segments)


def _server(connection: Connection[object, _Command], folder: Path, dtype: DType, threads: int | None) -> None:
    """Carry out commands, one after the other."""
    disable_progress_bar()
    model = load_model(folder, dtype=dtype, device="cpu", threads=threads)
    engine = CountingEngine(model, kv_budget_bytes=1 << 30)
    tokenizer, numerics = target_tokenizer(folder), numerics_fingerprint(folder, engine.dtype, engine.device)
    verifier: Verifier | None = None
    thread: threading.Thread | None = None
    while (command := connection.recv()) != "end":
        match command:
            case _Write(prompts, tokens):
                connection.send(_written(engine, prompts, tokens))
            case _Serve(batching, address):
                options = VerifierOptions("bench", address, tokenizer, numerics, batching=parse_batching(batching))
                verifier = Verifier(options, engine)
                thread = threading.Thread(target=verifier.run)
                thread.start()
                connection.send(None)
            case "count":
                connection.send(engine.work)
            case _:
                assert verifier is not None
                assert thread is not None
                verifier.stop()
                thread.join()
                connection.send(None)


def _written(engine: PackedEngine, prompts: list[list[int]], tokens: int) -> list[list[int]]:
    """Return what the target writes after each prompt, so many tokens, whatever end tokens are among them."""
    outputs: list[list[int]] = [[] for _ in prompts]
    for _ in range(tokens):
        segments = [
            Segment(b"%d" % index, prompt + output, 1)
            for index, (prompt, output) in enumerate(zip(prompts, outputs, strict=True))
        ]
        for output, (chosen,) in zip(outputs, engine.step(segments), strict=True):
            output.append(chosen)
    for index in range(len(prompts)):
        engine.release(b"%d" % index)
    return outputs


class Server:
    """The verifier's process, seen from here."""

    def __init__(self, folder: Path, dtype: DType, threads: int | None) -> None:
        """Start it and load the target."""
        # Spawned, not forked: a copy of this process would hold its threads' locks.
        context = multiprocessing.get_context("spawn")
        self._here, there = context.Pipe()
        self._process = context.Process(target=_server, args=(there, folder, dtype, threads), daemon=True)
        self._process.start()
        there.close()

    def write(self, prompts: list[list[int]], tokens: int) -> list[list[int]]:
        """Return the target's own greedy outputs."""
        outputs = self._tell(_Write(prompts, tokens))
        assert isinstance(outputs, list)
        return outputs

    def serve(self, batching: str, address: BrokerAddress) -> None:
        """Start a verifier with a policy."""
        self._tell(_Serve(batching, address))

    def count(self) -> Work:
        """Return the work done since the start of the process."""
        work = self._tell("count")
        assert isinstance(work, Work)
        return work

    def stop(self) -> None:
        """End the verifier that serves; the target stays loaded."""
        self._tell("stop")

    def _tell(self, command: _Command) -> object:
        self._here.send(command)
        return self._here.recv()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self._here.send("end")
        else:
            self._process.terminate()
        self._process.join()
        self._here.close()


# The devices ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Text:
    """A prompt as text and as token ids, and what the target will say."""

    prompt: str
    tokens: tuple[int, ...]
    output: tuple[int, ...]


class ScriptedDrafter:
    """Proposes what the target will say, or with a fixed chance something else, in its own time.

    Whether it is right depends on the text and the position alone, so that it is so under every policy.
    """

    name = "script"

    def __init__(self, texts: Sequence[Text], vocab_size: int, acceptance: float, seconds: float) -> None:
        """Set a drafter up.

        Args:
            texts: that it may be asked to continue.
            vocab_size: proposals lie below it.
            acceptance: chance that a token is the target's, 0 to 1.
            seconds: that every token takes.
        """
        self.vocab_size = vocab_size
        self.context_length = 1 << 20
        self._texts = texts
        self._acceptance = acceptance
        self._seconds = seconds

    def propose(self, tokens: Sequence[int], sampling: Sampling = GREEDY, position: int = 0) -> Proposal | None:
        """Return the next token of the text that `tokens` begin with, or a wrong one; None beyond its end."""
        del sampling, position  # a script is read by its place alone
        time.sleep(self._seconds)
        for number, text in enumerate(self._texts):
            at = len(tokens) - len(text.tokens)
            if 0 <= at < len(text.output) and tuple(tokens[: len(text.tokens)]) == text.tokens:
                right = random.Random(f"{number} {at}").random() < self._acceptance
                return Proposal((text.output[at] + (not right)) % self.vocab_size, 0.9 if right else 0.5)
        return None


@dataclass(slots=True)
class Turn:
    """What was seen of one policy in one turn. Times are in seconds.

    Attributes:
        tokens: committed while it was counted.
        seconds: how long it was counted.
        tpot: time per output token after the first commit, of each request.
        ttft: time to the first commit, of each request.
        rounds: of these requests.
        resends: of these requests.
        work: of the engine while it was counted.
    """

    tokens: int = 0
    seconds: float = 0.0
    tpot: list[float] = field(default_factory=list)
    ttft: list[float] = field(default_factory=list)
    rounds: int = 0
    resends: int = 0
    work: Work = field(default_factory=Work)

    def add(self, done: Statistics) -> None:
        """Count a request."""
        self.ttft.append(done.ttft / 1e6)
        self.tpot.append((done.duration - done.ttft) / 1e6 / max(1, done.tokens - 1))
        self.rounds += done.rounds
        self.resends += done.resends


class Fleet:
    """Devices, and the app that asks them."""

    def __init__(
        self, address: BrokerAddress, tokenizer: ChatTokenizer, texts: Sequence[Text], options: argparse.Namespace
    ) -> None:
        self._address = address
        self._texts = texts
        self._options = options
        self._topics = Topics()
        self._events: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._bridge = Bridge(address, "bench-app")
        self._bridge.subscribe(self._topics.answer("+", "+"), self._events.put)
        count = options.devices
        fastest, slowest = options.draft_ms
        self.devices = [f"bench-{number}" for number in range(count)]
        self._agents = [
            Agent(
                AgentOptions(device, address),
                ScriptedDrafter(
                    texts,
                    tokenizer.vocab_size,
                    options.acceptance,
                    (fastest + (slowest - fastest) * number / max(1, count - 1)) / 1e3,
                ),
                tokenizer,
                parse_policy(options.draft),
                Spool(None),
            )
            for number, device in enumerate(self.devices)
        ]
        self._threads = [threading.Thread(target=agent.run, daemon=True) for agent in self._agents]
        self._asked = dict.fromkeys(self.devices, 0)
        self._answered = dict.fromkeys(self.devices, 0)
        self._asking: Literal["not counted", "counted", "no more"] = "not counted"
        self._under_way: dict[str, bool] = {}

    def __enter__(self) -> Self:
        self._bridge.start()
        self._bridge.wait_up(10)
        for thread in self._threads:
            thread.start()
        with Client(self._address) as client:
            if not client.wait_online(devices=len(self.devices)):
                raise TimeoutError("the devices and the verifier did not come online within 30 seconds")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for agent in self._agents:
            agent.stop()
        for thread in self._threads:
            thread.join(20)
        self._bridge.stop()

    def run(self, server: Server) -> Turn:
        """Keep all devices busy, and return what was seen while that was so."""
        begin = time.monotonic()
        for number, device in enumerate(self.devices):
            self._take_in(Turn(), until=begin + _SETTLE * number)
            self._ask(device)
        while not all(self._answered.values()):
            self._take_in(Turn())
        turn, before, self._asking = Turn(), server.count(), "counted"
        began, enough = time.monotonic(), sum(self._answered.values()) + self._options.requests * len(self.devices)
        while sum(self._answered.values()) < enough:
            self._take_in(turn)
        turn.seconds = time.monotonic() - began
        turn.work = server.count().since(before)
        self._asking, tokens = "no more", turn.tokens
        while self._under_way:
            self._take_in(turn)
        turn.tokens = tokens
        return turn

    def _take_in(self, turn: Turn, until: float | None = None) -> None:
        """Take in one event, or all until a time; a device that is done is asked its next request."""
        while (message := self._next(until)) is not None:
            event = codec.decode_event(message.payload)
            match event:
                case TokenEvent():
                    turn.tokens += len(event.tokens)
                case DoneEvent() if event.request in self._under_way:
                    device = self._topics.parse(message.topic).device
                    self._answered[device] += 1
                    if self._under_way.pop(event.request):
                        turn.add(event.statistics)
                    if self._asking != "no more":
                        self._ask(device)
                case ErrorEvent():
                    raise RuntimeError(f"a device could not answer ({event.code}): {event.message}")
                case _:
                    pass
            if until is None:
                return

    def _next(self, until: float | None) -> Message | None:
        """Return the next message, or None at `until`."""
        try:
            return self._events.get(timeout=_PATIENCE if until is None else max(0.0, until - time.monotonic()))
        except queue.Empty:
            if until is None:
                raise TimeoutError(f"no device said anything for {_PATIENCE:.0f} seconds") from None
            return None

    def _ask(self, device: str) -> None:
        """Ask a device its next text; the devices begin with different ones."""
        number = self._asked[device]
        self._asked[device] += 1
        text = self._texts[(self.devices.index(device) + number) % len(self._texts)]
        request = f"{device}-{number}"
        ask = Ask(request, text.prompt, max_tokens=self._options.tokens, ignore_end=True)
        self._bridge.publish(self._topics.ask(device), codec.encode_json(ask))
        self._under_way[request] = self._asking == "counted"


# The report -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Result:
    """What was measured of one policy, over all its turns.

    Attributes:
        batching: the policy.
        tokens_per_second: committed by all devices together (WSTGR), median over the turns.
        rate_ratio: that over the first policy's in the same repetition, median.
        tpot_mean_ms, tpot_p50_ms, tpot_p95_ms: time per output token after the first commit, over all requests.
        ttft_p50_ms: time to the first commit.
        bundles_per_step: mean batch size.
        fed_per_step: tokens fed per step, padding and prompts included.
        tokens_per_round: mean accepted length.
        requests: that were counted.
        resends: bundles sent again for want of an answer in time.
    """

    batching: str
    tokens_per_second: float
    rate_ratio: float
    tpot_mean_ms: float
    tpot_p50_ms: float
    tpot_p95_ms: float
    ttft_p50_ms: float
    bundles_per_step: float
    fed_per_step: float
    tokens_per_round: float
    requests: int
    resends: int


def summarise(turns: dict[str, list[Turn]], tokens: int) -> list[Result]:
    """Return one result per policy; ratios are to the first, turn by turn.

    Args:
        turns: of each policy, in the order of the repetitions.
        tokens: of output per request.
    """
    rates = {batching: [turn.tokens / turn.seconds for turn in each] for batching, each in turns.items()}
    first = next(iter(rates.values()))
    results = []
    for batching, each in turns.items():
        tpot = sorted(1e3 * value for turn in each for value in turn.tpot)
        ttft = [1e3 * value for turn in each for value in turn.ttft]
        steps = max(1, sum(turn.work.steps for turn in each))
        results.append(
            Result(
                batching,
                statistics.median(rates[batching]),
                statistics.median(own / base for own, base in zip(rates[batching], first, strict=True)),
                statistics.fmean(tpot),
                statistics.median(tpot),
                statistics.quantiles(tpot, n=20, method="inclusive")[-1] if len(tpot) > 1 else tpot[0],
                statistics.median(ttft),
                sum(turn.work.bundles for turn in each) / steps,
                sum(turn.work.fed for turn in each) / steps,
                len(tpot) * tokens / max(1, sum(turn.rounds for turn in each)),
                len(tpot),
                sum(turn.resends for turn in each),
            )
        )
    return results


def _table(results: Sequence[Result], options: argparse.Namespace) -> str:
    fastest, slowest = options.draft_ms
    setting = (
        f"{options.devices} devices, {fastest:g} to {slowest:g} ms per draft token, {options.draft}, "
        f"{options.acceptance:.0%} of draft tokens right, {options.tokens} tokens per request, {options.dtype}, "
        f"{options.repetitions} turns of {options.devices * options.requests} requests"
    )
    head = (
        f"{'batching':<16} {'tokens/s':>9} {'ratio':>6} {'TPOT mean':>10} {'p50':>7} {'p95':>7} {'TTFT p50':>9} "
        f"{'bundles/step':>13} {'fed/step':>9} {'resends':>8}"
    )
    lines = [
        f"{each.batching:<16} {each.tokens_per_second:>9.1f} {each.rate_ratio:>6.2f} {each.tpot_mean_ms:>10.0f} "
        f"{each.tpot_p50_ms:>7.0f} {each.tpot_p95_ms:>7.0f} {each.ttft_p50_ms:>9.0f} {each.bundles_per_step:>13.1f} "
        f"{each.fed_per_step:>9.1f} {each.resends:>8}"
        for each in results
    ]
    return "\n".join([setting, "", head, *lines, "times in ms; ratios to the first policy, turn by turn"])


def _texts(server: Server, tokenizer: ChatTokenizer, count: int, tokens: int) -> list[Text]:
    """Return texts with prompts from one sentence to many."""
    chance = random.Random(11)
    prompts = [" ".join(chance.choices(_SENTENCES, k=1 + 2 * (number % 4))) for number in range(count)]
    encoded = [tokenizer.encode_chat([{"role": "user", "content": prompt}]) for prompt in prompts]
    outputs = server.write(encoded, tokens)
    return [
        Text(prompt, tuple(ids), tuple(output)) for prompt, ids, output in zip(prompts, encoded, outputs, strict=True)
    ]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="benchmarks.batching", description=__doc__.partition("\n")[0])
    parser.add_argument("--target", help="folder or name of the target (default: SmolLM2-135M-Instruct)")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--threads", type=int, default=None, help="of the verifier's engine")
    parser.add_argument(
        "--policies",
        nargs="+",
        type=_policy,
        default=["continuous", "static:16", "static:8", "dynamic:16", "dynamic:8"],
    )
    parser.add_argument("--devices", type=int, default=16)
    parser.add_argument("--draft-ms", nargs=2, type=float, default=(30.0, 120.0), help="per token: fastest, slowest")
    parser.add_argument("--draft", default="fixed:4", help="when devices stop drafting")
    parser.add_argument("--acceptance", type=float, default=0.8, help="chance that a draft token is right")
    parser.add_argument("--tokens", type=int, default=64, help="of output per request")
    parser.add_argument("--texts", type=int, default=24, help="different requests")
    parser.add_argument("--requests", type=int, default=2, help="that are counted per device and turn")
    parser.add_argument("--repetitions", type=int, default=3, help="turns of each policy")
    parser.add_argument("--json", action="store_true")
    return parser


def _policy(text: str) -> str:
    try:
        parse_batching(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return text


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; returns the exit code."""
    options = _parser().parse_args(argv)
    folder = pull_target(options.target)
    tokenizer = ChatTokenizer.load(folder)
    turns: dict[str, list[Turn]] = {batching: [] for batching in options.policies}
    broker = start_broker("auto", port=0)
    address = BrokerAddress(broker.host, broker.port)
    try:
        with Server(folder, options.dtype, options.threads) as server:
            texts = _texts(server, tokenizer, options.texts, options.tokens)
            for repetition in range(options.repetitions):
                # Forth and back, so that a machine that becomes slower is slower for all.
                for batching in options.policies[:: -1 if repetition % 2 else 1]:
                    server.serve(batching, address)
                    with Fleet(address, tokenizer, texts, options) as fleet:
                        turns[batching].append(fleet.run(server))
                    server.stop()
    finally:
        broker.stop()
    results = summarise(turns, options.tokens)
    if options.json:
        print(json.dumps([asdict(result) for result in results], indent=2))  # noqa: T201
    else:
        print(_table(results, options))  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
