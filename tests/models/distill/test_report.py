"""What is printed in the end."""

from __future__ import annotations

import msgspec

from models.distill.held_out import Acceptance
from models.distill.measure import Speed
from models.distill.report import Drafted, Point, Report, card, compare, describe

COUNTS = Acceptance(answers=2, tokens=100, agreed=60, rounds=40, drafted=150, accepted=60, committed=100)


def report_of(layers: tuple[int, ...], width: int | None = None) -> Report:
    """A report with a made-up drafter."""
    drafter = Drafted(
        folder="out",
        bits=4,
        size=30_300_000,
        ms_per_token=5.55,
        acceptance=COUNTS,
        by_source={"math": COUNTS, "": Acceptance(1, 10, 1, 9, 9, 1, 10)},
        speeds=[Speed(5, 3, 30.0, 1.5, 1.25), Speed(99, 8, 9.04, 2.5, 0.4)],
    )
    return Report(
        drafters=[drafter],
        layers=layers,
        weights=38_939_328,
        tokens=6_000_000,
        texts=7662,
        minutes=61.4,
        verify_ms=44.4,
        alone_ms=39.6,
        curve=[Point(1000, 2.0, 0.25, 1.3)],
        warnings=["1 of 4"],
        width=width,
    )


def test_a_report_in_words() -> None:
    lines = describe(report_of((0, 29))).splitlines()
    assert lines[:-1] == [
        "Warning: 1 of 4",
        (
            "out: 30.3 MB, 5.5 ms per draft token (one core), acceptance rate 0.40 and mean accepted length 2.50 with "
            "drafts of exactly 4, agreement 0.60 on 2 held-out answers"
        ),
        "  no source: mean accepted length 1.11, agreement 0.10",
        "  math: mean accepted length 2.50, agreement 0.60",
        "  round trip 5 ms: drafts of 3, 30.0 tokens/s, 1.50 times one token a round trip, 1.25 times the target alone",
        "  round trip 99 ms: drafts of 8, 9.0 tokens/s, 2.50 times one token a round trip, 0.40 times the target alone",
    ]
    assert "every draft has the same length" in lines[-1]
    assert lines[-1].endswith(
        "takes 44 ms with a draft of 4 and 40 ms without one, as on this machine, and other lengths in proportion."
    )


def test_students_in_one_table_smallest_first() -> None:
    lines = compare([report_of((0, 1, 2, 29)), report_of((0, 29))]).splitlines()
    assert lines[:4] == [
        "Warning: 1 of 4",
        (
            "| layers | weights | bits | MB | ms per draft token | agreement | mean accepted length (drafts of 4) "
            "| tokens/s at 5 ms | tokens/s at 99 ms |"
        ),
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
        "| 2 (0, 29) | 38,939,328 | 4 | 30.3 | 5.5 | 0.600 | 2.50 | 30.0 (drafts of 3) | 9.0 (drafts of 8) |",
    ]
    assert lines[4].startswith("| 4 (0, 1, 2, 29) |")
    assert lines[-1].startswith("Tokens/s are expected")
    assert compare([report_of((0, 1, 2), width=256)]).splitlines()[3].startswith("| 3 (width 256) |")


def test_a_drafter_that_does_not_pay_is_said_not_to() -> None:
    report = report_of((0,))
    useless = msgspec.structs.replace(report.drafters[0], speeds=[Speed(5, 0, 20.0, 1.0, 0.9)])
    assert "round trip 5 ms: no draft pays, 20.0 tokens/s" in describe(
        msgspec.structs.replace(report, drafters=[useless])
    )


def test_the_card_has_the_facts_the_results_and_the_curve() -> None:
    text = card(report_of((0, 29)), {"Seed": "7"})
    assert "| Seed | 7 |" in text
    assert "| Layers of the target | 0, 29 |" in text
    assert "| Weights | 38,939,328, 4 bits each in the layers, 8 bits in head and embedding |" in text
    assert "mean accepted length 2.50" in text
    assert "| 1,000 | 2 | 0.250 | 1.30 |" in text


def test_the_card_of_a_student_by_configuration_claims_no_layers_of_the_target() -> None:
    text = card(report_of((0, 1, 2), width=256), {})
    assert "| Layers | 3, 256 wide, none of them the target's |" in text
    assert "Layers of the target" not in text
