"""What a drafter is measured by, and what is expected of it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pytest

from edge_agent.drafters.drafter import Proposal
from models.distill.measure import draft_along, expected_speeds
from models.distill.texts import Text
from models.progress import silent
from schemas.messages import GREEDY, Sampling

if TYPE_CHECKING:
    from collections.abc import Sequence


class Successor:
    """Proposes the last token plus one; nothing after a 9."""

    name = "successor"
    vocab_size = 100
    context_length = 12

    def propose(self, tokens: Sequence[int], sampling: Sampling = GREEDY, position: int = 0) -> Proposal | None:
        return None if tokens[-1] == 9 else Proposal(tokens[-1] + 1, 1.0)


def text(*ids: int, source: str = "") -> Text:
    """A text with a prompt of two tokens."""
    return Text(np.asarray(ids, np.int32), 2, source)


def test_a_drafter_agrees_where_it_proposes_the_answer_s_token() -> None:
    trial = draft_along(
        Successor(), [text(5, 1, 2, 3, 9, 10), text(1, 2, 3, source="b")], longest=128, seconds=None, progress=silent
    )
    assert [row.tolist() for row in trial.agreements] == [[True, True, False, False], [True]]
    assert trial.sources == ["", "b"]
    assert trial.ms_per_token > 0


def test_answers_are_cut_to_the_longest_and_to_the_drafter_s_context() -> None:
    trial = draft_along(Successor(), [text(*range(20))], longest=3, seconds=None, progress=silent)
    assert len(trial.agreements[0]) == 3
    trial = draft_along(Successor(), [text(*range(20))], longest=128, seconds=None, progress=silent)
    assert len(trial.agreements[0]) == 10


def test_when_the_time_is_over_one_text_has_been_tried() -> None:
    trial = draft_along(Successor(), [text(1, 2, 3)] * 3, longest=9, seconds=0, progress=silent)
    assert len(trial.agreements) == len(trial.sources) == 1
    assert trial.ms_per_token == 0  # its only token came with a new prompt


def test_the_best_draft_grows_with_the_round_trip() -> None:
    always = [np.ones(1700, np.bool_)]
    near, far = expected_speeds(always, draft_ms=10, verify_ms=50, alone_ms=40, round_trips_ms=(0, 1000))
    assert far.draft == 16
    assert near.draft <= far.draft
    assert far.tokens_per_s == pytest.approx(17e3 / (160 + 1000 + 80))
    assert far.speed_up == pytest.approx(far.tokens_per_s / (1e3 / 1040))
    assert far.of_alone == pytest.approx(far.tokens_per_s / 25)


def test_a_token_more_to_verify_costs_what_those_that_were_measured_did() -> None:
    always = [np.ones(170, np.bool_)]
    dear, cheap = (
        expected_speeds(always, draft_ms=1, verify_ms=verify_ms, alone_ms=40, round_trips_ms=(0,))[0]
        for verify_ms in (204, 40)
    )
    assert dear.draft == 0  # four tokens more for the time of four steps
    assert cheap.draft == 16
    assert cheap.tokens_per_s == pytest.approx(17e3 / (16 + 40))


def test_a_draft_that_seemed_to_make_the_step_faster_costs_nothing_more() -> None:
    (speed,) = expected_speeds([np.ones(170, np.bool_)], draft_ms=1, verify_ms=20, alone_ms=40, round_trips_ms=(0,))
    assert speed.tokens_per_s == pytest.approx(17e3 / (16 + 40))


def test_a_drafter_that_is_never_right_is_best_not_asked() -> None:
    (speed,) = expected_speeds([np.zeros(9, np.bool_)], draft_ms=1, verify_ms=45, alone_ms=40, round_trips_ms=(10,))
    assert (speed.draft, speed.speed_up) == (0, 1.0)
    assert math.isclose(speed.tokens_per_s, 20.0)
