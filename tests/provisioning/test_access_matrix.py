"""What every role may do at every topic family, its own and somebody else's, tried out on real brokers."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from broker.access import Action, Rulebook
from broker.access_file import encode_access
from broker.run import start_broker
from broker.security import Security
from provisioning.render import render
from tests.conftest import require
from tests.provisioning.dynsec import dynsec_mosquitto
from tests.provisioning.matrix import Prober, matrix_access, read_matrix

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.broker.raw import Place

MATRIX = read_matrix()
ACTIONS = {
    "p": Action.PUBLISH,
    "r": Action.RETAIN,
    "w": Action.WILL,
    "s": Action.SUBSCRIBE,
    "g": Action.RECEIVE,
    "k": Action.RECEIVE,
}


@pytest.fixture(scope="module", params=["embedded", "mosquitto", "mosquitto-dynsec"])
def kind(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    require("embedded" if name == "embedded" else "mosquitto")
    return name


@pytest.fixture(scope="module")
def prober(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prober]:
    """A prober at a broker of each kind, by the rules of the model."""
    folder, access = tmp_path_factory.mktemp(kind), matrix_access(MATRIX)
    with ExitStack() as stack:
        place: Place
        if kind == "mosquitto-dynsec":
            (rules,) = render(access, "mosquitto-dynsec")
            place = stack.enter_context(dynsec_mosquitto(folder, rules.text))
        else:
            (folder / "access.json").write_text(encode_access(access))
            security = Security(access=folder / "access.json")
            place = broker = start_broker("embedded" if kind == "embedded" else "mosquitto", port=0, security=security)
            stack.callback(broker.stop)
        prober = Prober(place)
        stack.callback(prober.close)
        yield prober


@pytest.mark.parametrize("name", MATRIX.roles)
def test_on_a_broker(prober: Prober, kind: str, name: str) -> None:
    """What an identity can really do is what it should."""
    expected = MATRIX.expected(kind, name)
    found = prober.probe(name, list(MATRIX.cells[name]), list(MATRIX.filters[name]), min(expected["g"]))
    assert {letter: sorted(found[letter]) for letter in expected} == {
        letter: sorted(topics) for letter, topics in expected.items()
    }


@pytest.mark.parametrize("name", MATRIX.roles)
def test_in_the_model(name: str) -> None:
    """The rules, asked directly."""
    book, expected = Rulebook(matrix_access(MATRIX)), MATRIX.expected("embedded", name)
    for letter, action in ACTIONS.items():
        topics = [*MATRIX.cells[name], *(MATRIX.filters[name] if letter == "s" else ())]
        assert {topic for topic in topics if book.may(name, action, topic)} == expected[letter]
