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
import random
import statistics
import sys
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Final

from broker.address import BrokerAddress
from broker.run import start_broker
from edge_agent.tokenizer import ChatTokenizer
from models.pull import pull_target
from verifier.batching import parse_batching

if TYPE_CHECKING:
    from collections.abc import Sequence


from benchmarks.kit.counted_verifier import Server
from benchmarks.kit.scripted_devices import Devices, Text, Turn

_SENTENCES: Final = (
    "Tell me about the history of lighthouses and of the people who kept them.",
    "Write about a walk through a small town in the rain.",
    "Explain how bread is made, and why the dough rises.",
    "Describe a machine that sorts apples by their colour.",
    "The garden has six beds, a pond, an old pear tree and a bench where nobody sits in winter.",
    "My neighbour keeps bees and says that they know the weather better than the radio does.",
)


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
                    with Devices(address, tokenizer, texts, options) as fleet:
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
