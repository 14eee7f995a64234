"""Whether the drafter fits a verifier that is announced, and is fast enough to be worth its while."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from typing import TYPE_CHECKING, Final, NamedTuple

from sled.checks.check import Check, failed, ok, skipped, warning

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from edge_agent.drafters.drafter import Drafter
    from schemas.messages import VerifierState

TOKENIZER: Final = "tokenizer"
SPEED: Final = "draft speed"

_PROMPT: Final = 64
"""Tokens before the first drafted one …"""
_TOKENS: Final = 24
"""… and how many are drafted after it; the first reads the prompt and is left out of the times."""


class Drafting(NamedTuple):
    """What a device drafts with.

    Attributes:
        drafters: as for --drafter, in order of preference.
        tokenizer: folder of the target's tokenizer.
        threads: CPU threads.
    """

    drafters: tuple[str, ...]
    tokenizer: Path
    threads: int = 1


def check_drafting(drafting: Drafting | None, states: dict[str, VerifierState]) -> tuple[Check, Check]:
    """Open the drafter, and hold it against the verifiers that are announced."""
    if drafting is None:
        why = "no drafter is named, and none comes with this installation"
        do = "give --drafter (and --tokenizer), as to `sled agent`"
        return skipped(TOKENIZER, why, do), skipped(SPEED, why, do)
    from edge_agent.drafters.drafter import DrafterError  # noqa: PLC0415 -- of a device
    from edge_agent.drafters.spec import open_drafter, parse_drafter  # noqa: PLC0415
    from edge_agent.tokenizer import ChatTokenizer, TokenizerError  # noqa: PLC0415
    from schemas.digest import tokenizer_digest  # noqa: PLC0415

    try:
        tokenizer = ChatTokenizer.load(drafting.tokenizer)
    except TokenizerError as error:
        return failed(TOKENIZER, f"{drafting.tokenizer} cannot be used", str(error)), skipped(SPEED, "no tokenizer")
    fits = judge_tokenizer(tokenizer_digest(tokenizer.canonical_json), states)
    try:
        drafter = open_drafter(
            [parse_drafter(text) for text in drafting.drafters],
            threads=drafting.threads,
            vocab_limit=tokenizer.vocab_size,
            tokenizer=tokenizer.canonical_json,
            target=drafting.tokenizer,
        )
        seconds = time_drafter(drafter, tokenizer.vocab_size)
    except (DrafterError, ValueError) as error:
        return fits, failed(SPEED, "the drafter does not work", str(error))
    return fits, judge_speed(drafter.name, seconds, states)


def judge_tokenizer(own: str, states: dict[str, VerifierState]) -> Check:
    """Compare digests: of this device's tokenizer, and of the verifiers'."""
    online = {name: state for name, state in states.items() if state.status == "online"}
    if not online:
        return skipped(TOKENIZER, f"digest {own}; no verifier is announced to compare it with")
    alike = sorted(name for name, state in online.items() if state.tokenizer == own)
    if alike:
        return ok(TOKENIZER, f"digest {own}, the same as that of {', '.join(alike)}")
    theirs = ", ".join(f"{name} {state.tokenizer}" for name, state in sorted(online.items()))
    return failed(
        TOKENIZER,
        f"digest {own}; the verifiers have others ({theirs}), so that token ids mean other words",
        "give --tokenizer the target's, and a drafter that has it or drafts through text (--drafter cross:FOLDER)",
    )


def judge_speed(name: str, seconds: Sequence[float], states: dict[str, VerifierState]) -> Check:
    """Compare the time of a drafted token with the rounds of the verifiers.

    Args:
        name: of the drafter.
        seconds: that drafted tokens took; empty if it proposed nothing.
        states: of the verifiers; their `round_time` is what a round takes there, from receipt to verdict.
    """
    if not seconds:
        return ok(SPEED, f"{name} proposed nothing to a made-up prompt, as a lookup may")
    token = statistics.median(seconds) * 1e3
    found = f"{name}: {token:.1f} ms a token, median of {len(seconds)}"
    rounds = [s.round_time / 1e3 for s in states.values() if s.status == "online" and s.round_time > 0]
    if not rounds:
        return ok(SPEED, f"{found}; no verifier has said yet what a round takes there")
    fastest = min(rounds)
    found = f"{found}; a round takes {fastest:.1f} ms at the verifier"
    if token >= fastest:
        return warning(
            SPEED,
            f"{found}: a drafted token costs as much as the target's own",
            "use a smaller drafter, `--drafter lookup`, or more --threads; the default policy drafts little meanwhile",
        )
    return ok(SPEED, found)


def time_drafter(drafter: Drafter, vocabulary: int) -> list[float]:
    """Return what tokens took after a made-up prompt, in seconds; the first, which reads the prompt, is left out.

    Of a drafter made of several parts, what the slowest of them took: a lookup costs nothing.

    Raises:
        DrafterError: the drafter cannot go on.
    """
    sequence = [1 + number % max(1, vocabulary - 1) for number in range(_PROMPT)]
    seconds = defaultdict[str, list[float]](list)
    for position in range(_TOKENS):
        begun = time.perf_counter()
        proposal = drafter.propose(sequence, position=position)
        taken = time.perf_counter() - begun
        if proposal is None:
            break
        if position > 0:
            seconds[proposal.source].append(taken)
        sequence.append(proposal.token)
    return max(seconds.values(), key=statistics.median, default=[])
