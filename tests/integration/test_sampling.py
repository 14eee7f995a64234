"""Sampled answers: the same seed gives the text the rule gives, whoever drafts and whatever breaks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from schemas.messages import GREEDY, Ask, Sampling
from tests.integration.fleet import answer, sampled_alone
from tests.models.other_tokenizer import save_with_other_tokenizer

if TYPE_CHECKING:
    from pathlib import Path

    from sled.reference import Reference
    from tests.integration.fleet import Fleet

PROMPT = "Tell me something."
TOKENS = 60
SAMPLINGS = [
    Sampling(0.8, 0, 0.95, 7),
    Sampling(1.0, 0, 1.0, 2**63 - 1),
    Sampling(1.7, 20, 1.0, 0),
    Sampling(0.3, 5, 0.5, 12345),
]


def asked(sampling: Sampling, *, tokens: int = TOKENS) -> Ask:
    return Ask(
        prompt=PROMPT,
        max_tokens=tokens,
        temperature=sampling.temperature,
        top_k=sampling.top_k,
        top_p=sampling.top_p,
        seed=sampling.seed,
    )


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=str)
def test_sampled_answer_is_what_the_rule_gives(fleet: Fleet, reference: Reference, sampling: Sampling) -> None:
    fleet.verifier()
    fleet.agent()
    with fleet.client() as client:
        tokens, done = answer(client, "pi", asked(sampling))
    assert tokens == sampled_alone(reference, PROMPT, sampling, TOKENS)
    assert done.lossless


@pytest.mark.parametrize("drafter", ["lookup", "transformers", "lookup+onnx"])
def test_whoever_drafts(fleet: Fleet, reference: Reference, drafter: str) -> None:
    fleet.verifier()
    spec = {"transformers": f"transformers:{fleet.target}", "lookup+onnx": f"lookup+onnx:{fleet.drafter}"}
    fleet.agent(drafter=spec.get(drafter, drafter))
    with fleet.client() as client:
        tokens, _ = answer(client, "pi", asked(SAMPLINGS[0]))
    assert tokens == sampled_alone(reference, PROMPT, SAMPLINGS[0], TOKENS)


@pytest.mark.parametrize("sampling", [GREEDY, SAMPLINGS[0]], ids=str)
def test_a_drafter_with_another_tokenizer(
    fleet: Fleet, reference: Reference, tmp_path: Path, sampling: Sampling
) -> None:
    """The target's own weights behind other ids: what it drafts is the target's text, and much of it accepted."""
    other = save_with_other_tokenizer(fleet.target, tmp_path / "other")
    fleet.verifier()
    fleet.agent(drafter=f"cross:transformers:{other}")
    with fleet.client() as client:
        tokens, done = answer(client, "pi", asked(sampling))
    assert tokens == sampled_alone(reference, PROMPT, sampling, TOKENS)
    assert done.statistics.drafted > 0


@pytest.mark.parametrize("run", [0, 1, 7])
def test_runs_without_drafts(fleet: Fleet, reference: Reference, run: int) -> None:
    fleet.verifier()
    fleet.agent(drafter="lookup:9", run=run)
    with fleet.client() as client:
        tokens, done = answer(client, "pi", asked(SAMPLINGS[1]))
    assert tokens == sampled_alone(reference, PROMPT, SAMPLINGS[1], TOKENS)
    assert (done.statistics.generated > 0) == (run > 0)


def test_drafter_guesses_with_the_same_noise(fleet: Fleet) -> None:
    """The target itself as its own drafter is always right, sampled or not: only shared noise does that."""
    fleet.verifier()
    fleet.agent(drafter=f"transformers:{fleet.target}", padding=True)
    with fleet.client() as client:
        _, done = answer(client, "pi", asked(SAMPLINGS[1]))
    assert done.statistics.accepted == done.statistics.drafted > 0


def test_verifier_that_is_replaced_goes_on_with_the_same_noise(fleet: Fleet, reference: Reference) -> None:
    """The first one ends in the middle; the second has only the retained context and what comes."""
    first = fleet.verifier("v1")
    fleet.agent(draft=1)
    long = asked(SAMPLINGS[0], tokens=300)
    with fleet.client() as client:
        events = client.ask("pi", long, timeout=60)
        tokens = list(getattr(next(events), "tokens", ()))
        fleet.stop(first)
        fleet.verifier("v2")
        for event in events:
            tokens += getattr(event, "tokens", ())
            last = event
    assert tuple(tokens) == sampled_alone(reference, PROMPT, SAMPLINGS[0], 300)
    assert getattr(last, "verifier", "") in ("v1", "v2")


def test_no_seed_given_means_another_text_each_time(fleet: Fleet) -> None:
    fleet.verifier()
    fleet.agent()
    with fleet.client() as client:
        texts = {answer(client, "pi", Ask(prompt=PROMPT, max_tokens=30, temperature=1.5))[1].text for _ in range(3)}
    assert len(texts) == 3
