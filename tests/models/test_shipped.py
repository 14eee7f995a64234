"""The drafter that comes with the package: small enough, whole, and able to guess what its target says."""

from __future__ import annotations

import re
import shlex

from typer.main import get_command

from edge_agent.drafters.spec import open_drafter, parse_drafter
from edge_agent.tokenizer import ChatTokenizer
from models.default import SHIPPED, default_choice
from models.distill.measure import folder_bytes
from sled.cli import app

SAID = (
    "The answer to this question lies in the intricate dance of light and color. The sky appears blue because of a "
    "phenomenon known as Rayleigh scattering. This occurs when light encounters molecules of air, which scatter the "
    "shorter wavelengths of light, particularly the blue light, in a way that blue appears to be the most scattered."
)
"""By the target, greedily, when asked why the sky is blue."""


def test_it_is_small_and_has_a_card_and_a_licence() -> None:
    assert folder_bytes(SHIPPED) <= 32_000_000
    card = (SHIPPED / "README.md").read_text()
    for said in (
        "sled draft distill --target smollm2-135m-instruct",
        "sha256",
        "Seed",
        "Hardware",
        "Licence",
        "minutes",
    ):
        assert said in card
    assert "Apache License" in (SHIPPED / "LICENSE").read_text()


def test_the_command_on_its_card_can_be_given() -> None:
    (command,) = re.findall(r"`sled (draft distill [^`]*)`", (SHIPPED / "README.md").read_text())
    group, name, *arguments = shlex.split(command)
    distill = get_command(app).commands[group].commands[name]  # type: ignore[attr-defined]
    assert distill.make_context(name, arguments).params["tokens"] == 1_050_000


def test_it_guesses_what_its_target_says() -> None:
    choice = default_choice()
    assert choice == f"lookup+{SHIPPED}"
    tokenizer = ChatTokenizer.load(SHIPPED)
    drafter = open_drafter(
        [parse_drafter(choice)], vocab_limit=tokenizer.vocab_size, tokenizer=tokenizer.canonical_json
    )
    prompt = tokenizer.encode_chat([{"role": "user", "content": "Why is the sky blue?"}])
    answer = tokenizer.encode_text(SAID)
    hits = 0
    for position, token in enumerate(answer):
        proposal = drafter.propose([*prompt, *answer[:position]], position=position)
        hits += proposal is not None and proposal.token == token
    assert hits / len(answer) >= 0.2, "it guesses such a text badly, a damaged one guesses none"
