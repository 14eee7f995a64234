"""A device beside the target alone: three answers to each prompt, added up."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING

import msgspec

from benchmarks.kit.answer import Answer
from benchmarks.kit.prompts import Prompt
from benchmarks.kit.timing import Timing
from schemas.messages import Statistics
from sled.rounds import Rounds, ratio

if TYPE_CHECKING:
    from collections.abc import Sequence


class Turn(msgspec.Struct, frozen=True):
    """One prompt and the three answers to it.

    Attributes:
        device: of the whole system.
        statistics: what the device counted.
        generate: of the target by plain `generate`.
        engine: of the target by our engine without drafts.
    """

    prompt: Prompt
    device: Answer
    statistics: Statistics
    generate: Answer
    engine: Answer


class Speed(msgspec.Struct, frozen=True):
    """How fast somebody was.

    Attributes:
        tokens_per_second: of whole answers.
        decode_tokens_per_second: after the first tokens.
        ttft_ms: time to the first tokens, mean.
        tokens: written.
        seconds: taken.
    """

    tokens_per_second: float
    decode_tokens_per_second: float
    ttft_ms: float
    tokens: int
    seconds: float

    @classmethod
    def of(cls, answers: Sequence[Answer]) -> Speed:
        """Add up."""
        timing = sum((answer.timing for answer in answers), Timing())
        return cls(timing.rate, timing.decode_rate, 1e3 * timing.ttft, timing.tokens, timing.seconds)


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured over some prompts.

    Attributes:
        ratio: the device's tokens per second over those of the faster way to run the target alone.
        decode_ratio: likewise, of decode rates.
        median_ratio: median over the prompts of the device's rate over that of the faster way.
        faster: which way of running the target alone that was.
        identical: answers that are, token by token and as text, what `generate` writes.
        engine_identical: likewise, of the engine's answers.
        mean_accepted_length: tokens committed per round, bonus included, tokens of runs left out.
        generated: tokens of runs, which the verifier wrote by itself.
    """

    ratio: float
    decode_ratio: float
    median_ratio: float
    faster: str
    device: Speed
    generate: Speed
    engine: Speed
    prompts: int
    identical: int
    engine_identical: int
    tokens: int
    rounds: int
    drafted: int
    accepted: int
    mean_accepted_length: float
    mean_draft_length: float
    acceptance_rate: float
    generated: int
    resends: int


def compare(turns: Sequence[Turn]) -> Comparison:
    """Add up the turns (at least one)."""
    device, generate, engine = (
        Speed.of([getattr(turn, who) for turn in turns]) for who in ("device", "generate", "engine")
    )
    faster = "engine" if engine.tokens_per_second > generate.tokens_per_second else "generate"
    alone = max(generate.tokens_per_second, engine.tokens_per_second)
    decode_alone = max(generate.decode_tokens_per_second, engine.decode_tokens_per_second)
    each = [ratio(turn.device.timing.rate, getattr(turn, faster).timing.rate) for turn in turns]
    rounds = Rounds.of([turn.statistics for turn in turns])
    return Comparison(
        ratio=ratio(device.tokens_per_second, alone),
        decode_ratio=ratio(device.decode_tokens_per_second, decode_alone),
        median_ratio=median(each),
        faster=faster,
        device=device,
        generate=generate,
        engine=engine,
        prompts=len(turns),
        identical=sum(_same(turn.device, turn.generate) for turn in turns),
        engine_identical=sum(_same(turn.engine, turn.generate) for turn in turns),
        tokens=rounds.tokens,
        rounds=rounds.rounds,
        drafted=rounds.drafted,
        accepted=rounds.accepted,
        mean_accepted_length=rounds.mean_accepted_length,
        mean_draft_length=rounds.mean_draft_length,
        acceptance_rate=rounds.acceptance_rate,
        generated=rounds.generated,
        resends=rounds.resends,
    )


def by_source(turns: Sequence[Turn]) -> dict[str, Comparison]:
    """Compare the prompts of each source that is named, in the order in which they come."""
    sources = dict.fromkeys(turn.prompt.source for turn in turns if turn.prompt.source)
    return {source: compare([turn for turn in turns if turn.prompt.source == source]) for source in sources}


def _same(one: Answer, other: Answer) -> bool:
    return one.tokens == other.tokens and one.text == other.text
