"""What rules mean, and which of them make sense."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.access import Access, AccessInvalid, Action, Identity, Rule, Rulebook, client_id
from broker.access_file import encode_access, read_access
from broker.password import check_hash, hash_password, matches
from tests.broker.brokers import ALL, allow

LEVELS = st.sampled_from(["a", "b", "", "+", "#", "$x"])
PLAIN = st.sampled_from(["a", "b", "", "$x"])


def fits(topic: list[str], topic_filter: list[str]) -> bool:
    """Whether a topic matches a filter: MQTT 3.1.1, 4.7, read once more."""
    if topic[0].startswith("$") and topic_filter[0] in ("+", "#"):
        return False
    match topic, topic_filter:
        case _, ["#"]:
            return True
        case [], []:
            return True
        case [_, *rest], ["+", *others]:
            return _fits_rest(rest, others)
        case [level, *rest], [other, *others] if level == other:
            return _fits_rest(rest, others)
    return False


def _fits_rest(topic: list[str], topic_filter: list[str]) -> bool:
    if topic_filter == ["#"]:
        return True
    if not topic or not topic_filter:
        return topic == topic_filter
    if topic_filter[0] not in ("+", topic[0]):
        return False
    return _fits_rest(topic[1:], topic_filter[1:])


def valid(topic_filter: list[str]) -> bool:
    return "#" not in topic_filter[:-1]


@given(
    st.lists(LEVELS, min_size=1, max_size=4).filter(valid).filter(lambda levels: "" not in levels),
    st.lists(LEVELS, min_size=1, max_size=4).filter(valid),
    st.lists(PLAIN, min_size=1, max_size=4),
)
def test_filter_that_is_allowed_matches_nothing_forbidden(
    allowed: list[str], asked: list[str], topic: list[str]
) -> None:
    """If a filter is allowed, every topic that it matches is; and a topic is allowed if it matches the rule."""
    book = Rulebook(allow(("/".join(allowed), ALL)))
    assert book.may("pi", Action.RECEIVE, "/".join(topic)) == fits(topic, allowed)
    if book.may("pi", Action.SUBSCRIBE, "/".join(asked)) and fits(topic, asked):
        assert fits(topic, allowed)


def test_names_are_put_in() -> None:
    """Each identity has its own topics; who is not known has none."""
    book = Rulebook(allow(("device/{name}/state", (Action.PUBLISH,))))
    assert book.may("pi", Action.PUBLISH, "device/pi/state")
    assert not book.may("pi", Action.PUBLISH, "device/gpu/state")
    assert not book.may("pi", Action.SUBSCRIBE, "device/pi/state")
    for nobody in ("stranger", "", None):
        assert not book.may(nobody, Action.PUBLISH, "device/pi/state")


def test_client_id() -> None:
    """It is the name, but for the visitor's."""
    assert client_id("pi", "agent-gpu") == "pi"
    assert client_id("pi", "") == "pi"
    assert client_id("pi", "agent-gpu.visit") == "pi.visit"


@pytest.mark.parametrize(
    "name",
    ["", "a b", "a\n", "a\nuser root", "a/b", "+", "#", "a" * 128, "\u00e9", "\u0430", ".a", "a\0", 'a"', "a:b",
     "pi.visit", "$SYS"],
)  # fmt: skip
def test_names_that_are_none(name: str) -> None:
    """What could break a line, a quote or a topic is no name; nor is what could be taken for a visitor's."""
    with pytest.raises(AccessInvalid, match="cannot be the name of an identity"):
        Access(1, {"test": ()}, (Identity(name, "test"),)).check()


@pytest.mark.parametrize(
    "topic", ["", "a//b", "a/#/b", "a#", "a+/b", "a\nb", 'a"b', "a b", "{device}", "x{name}", "a\0"]
)
def test_topics_that_are_none(topic: str) -> None:
    """Nor are rules' topics taken that are no filters."""
    with pytest.raises(AccessInvalid, match="is no topic filter"):
        Access(1, {"test": (Rule(topic, ALL),)}, ()).check()


def test_identities_that_do_not_go_together() -> None:
    """Two of one name, an unknown role, a password that is no hash."""
    with pytest.raises(AccessInvalid, match="two identities are named 'pi'"):
        Access(1, {"a": (), "b": ()}, (Identity("pi", "a"), Identity("pi", "b"))).check()
    with pytest.raises(AccessInvalid, match="'pi' has the role 'c', which has no rules: there are a, b"):
        Access(1, {"a": (), "b": ()}, (Identity("pi", "c"),)).check()
    with pytest.raises(AccessInvalid, match="the password of 'pi' cannot be used: it is no hash"):
        Access(1, {"a": ()}, (Identity("pi", "a", "secret"),)).check()


def test_file(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What is written is what is read."""
    file = tmp_path_factory.mktemp("access") / "access.json"
    access = allow(("device/{name}/state", ALL))
    file.write_text(encode_access(access))
    assert read_access(file) == access


@given(st.text(max_size=40), st.text(max_size=40))
def test_password(password: str, other: str) -> None:
    """A hash is of one password."""
    hashed = hash_password(password, iterations=1)
    assert matches(hashed, password)
    assert matches(hashed, other) == (password == other)
    assert str(check_hash(hashed)) == hashed


def test_password_is_salted() -> None:
    """The same password has another hash each time."""
    assert hash_password("a", iterations=1) != hash_password("a", iterations=1)


@pytest.mark.parametrize(
    "text",
    ["", "$7$1$c2FsdA==$aGFzaA==", "$6$1$a$b", "$7$0$c2FsdA==$" + "A" * 86 + "==", "$7$x$c2FsdA==$" + "A" * 86 + "==",
     "$7$9999999$c2FsdA==$" + "A" * 86 + "==", "$7$1$!$" + "A" * 86 + "==", "$7$1$c2FsdA==$" + "A" * 86 + "==$"],
)  # fmt: skip
def test_hashes_that_are_none(text: str) -> None:
    """They are not taken; one that would keep a broker busy for seconds neither."""
    with pytest.raises(ValueError, match="it is no hash of the form"):
        check_hash(text)
