"""Topics: one root, per-device topics, names without wildcards."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import InvalidTopic
from schemas.topics import Family, Topic, Topics, check_name, check_request
from tests.schemas.samples import SESSION, patient

names = st.from_regex(r"[a-z0-9][a-z0-9-]{0,62}", fullmatch=True)
requests = st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True)
roots = st.from_regex(r"[A-Za-z0-9_-]{1,9}(/[A-Za-z0-9_-]{1,9}){0,3}", fullmatch=True)

BAD_NAMES = {
    "plus": "+",
    "plus inside": "a+b",
    "hash": "#",
    "slash": "a/b",
    "leading slash": "/a",
    "parent": "..",
    "dot": "a.b",
    "dollar": "$sys",
    "NUL": "a\x00",
    "only NUL": "\x00",
    "empty": "",
    "space": "a b",
    "blank": " ",
    "trailing newline": "a\n",
    "carriage return": "a\r",
    "cyrillic a": "\u0430",
    "full-width a": "\uff41",
    "full-width digit": "\uff11",
    "arabic digit": "\u0661",
    "dotless i": "p\u0131",
    "kelvin sign": "\u212a",
    "long s": "\u017f",
    "soft hyphen": "a\u00adb",
    "non-breaking hyphen": "a\u2011b",
    "zero-width joiner": "a\u200d",
    "combining accent": "e\u0301",
    "lone surrogate": "\ud800",
}
BAD_DEVICES = BAD_NAMES | {
    "64 characters": "a" * 64,
    "upper case": "Pi",
    "underscore": "a_b",
    "leading hyphen": "-a",
}
BAD_REQUESTS = BAD_NAMES | {"65 characters": "a" * 65}
BAD_ROOTS = (
    *("", "/", "/sled", "sled/", "sled//v1", "sled/+", "#", "sled/#", "$SYS", "sled/$v", "sled v1", "sled\n"),
    *("sled/v1\n", "..", "sled/../v1", "sled\x00", "släd", "\uff53led"),
)


@patient
@given(roots, names, names, st.binary(min_size=8, max_size=8), requests)
def test_parse_of_built_topic(root: str, device: str, verifier: str, session: bytes, request: str) -> None:
    topics = Topics(root)
    built = {
        topics.device_state(device): Topic(Family.DEVICE_STATE, device=device),
        topics.session(device, session): Topic(Family.SESSION, device=device, session=session),
        topics.draft(device, verifier): Topic(Family.DRAFT, device=device, verifier=verifier),
        topics.verdict(device): Topic(Family.VERDICT, device=device),
        topics.verifier_state(verifier): Topic(Family.VERIFIER_STATE, verifier=verifier),
        topics.ask(device): Topic(Family.ASK, device=device),
        topics.cancel(device): Topic(Family.CANCEL, device=device),
        topics.answer(device, request): Topic(Family.ANSWER, device=device, request=request),
        topics.enrol_request(device): Topic(Family.ENROL_REQUEST, identity=device),
        topics.enrol_answer("enroll.00c0ffee00c0ffee"): Topic(Family.ENROL_ANSWER, identity="enroll.00c0ffee00c0ffee"),
    }
    assert {topic.family for topic in built.values()} == set(Family)
    for text, topic in built.items():
        assert topics.parse(text) == topic
        names = {"device": device, "verifier": verifier, "session": session.hex(), "request": request}
        place = topic.family.value.format(**names, identity=topic.identity)
        assert text == f"{root}/{place}"


def test_build_below_default_root() -> None:
    topics = Topics()
    assert topics.draft("pi-7", "desk") == "sled/v1/device/pi-7/draft/desk"
    assert topics.session("pi-7", SESSION) == "sled/v1/device/pi-7/session/00c0ffee00c0ffee"
    assert topics.verifier_state("desk") == "sled/v1/verifier/desk/state"


def test_build_of_filters() -> None:
    """A plus stands for every device, verifier or request, and for nothing less than a whole name."""
    topics = Topics("lab")
    assert topics.device_state("+") == "lab/device/+/state"
    assert topics.sessions("+") == "lab/device/+/session/+"
    assert topics.draft("+", "desk") == "lab/device/+/draft/desk"
    assert topics.verifier_state("+") == "lab/verifier/+/state"
    assert topics.answer("pi-7", "+") == "lab/device/pi-7/answer/+"


@pytest.mark.parametrize("name", ["a", "0", "pi-7", "a-", "a--b", "a" * 63, "0" * 63])
def test_check_name_of_legal_name(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize("name", BAD_DEVICES.values(), ids=BAD_DEVICES)
def test_check_name_of_illegal_name(name: str) -> None:
    with pytest.raises(InvalidTopic, match="no valid verifier id: use 1 to 63 lower-case letters") as caught:
        check_name(name, "verifier id")
    assert caught.value.code == "invalid_topic"
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("request_id", BAD_REQUESTS.values(), ids=BAD_REQUESTS)
def test_check_request_of_illegal_id(request_id: str) -> None:
    with pytest.raises(InvalidTopic, match="no valid request id"):
        check_request(request_id)


@pytest.mark.parametrize("name", ["x" * 100_000, "\n" * 100_000, "+" * 100_000])
def test_check_of_endless_name_gives_short_sentence(name: str) -> None:
    for check in (check_name, check_request):
        with pytest.raises(InvalidTopic) as caught:
            check(name + "!")
        assert len(str(caught.value)) < 500


@pytest.mark.parametrize("name", [name for name in BAD_DEVICES.values() if name != "+"], ids=ascii)
def test_build_with_illegal_name(name: str) -> None:
    topics = Topics()
    for build in (
        topics.device_state,
        topics.verdict,
        topics.verifier_state,
        topics.ask,
        topics.cancel,
        topics.sessions,
    ):
        with pytest.raises(InvalidTopic):
            build(name)
    for device, verifier in ((name, "desk"), ("pi-7", name), ("pi-7", "+")):
        with pytest.raises(InvalidTopic):
            topics.draft(device, verifier)
    with pytest.raises(InvalidTopic):
        topics.session(name, SESSION)
    with pytest.raises(InvalidTopic):
        topics.answer(name, "q-1")


@pytest.mark.parametrize("session", [b"", SESSION[:7], SESSION + b"\x00"])
def test_build_with_session_of_wrong_length(session: bytes) -> None:
    with pytest.raises(InvalidTopic, match="8 bytes"):
        Topics().session("pi-7", session)


@pytest.mark.parametrize("name", BAD_DEVICES.values(), ids=BAD_DEVICES)
def test_parse_with_illegal_name(name: str) -> None:
    """A wildcard is fine in a filter and never in the topic of a message."""
    for topic in (
        f"device/{name}/state",
        f"device/{name}/session/{SESSION.hex()}",
        f"device/{name}/draft/desk",
        f"device/pi-7/draft/{name}",
        f"device/{name}/verdict",
        f"verifier/{name}/state",
        f"device/{name}/ask",
        f"device/{name}/cancel",
        f"device/{name}/answer/q-1",
    ):
        with pytest.raises(InvalidTopic):
            Topics().parse(f"sled/v1/{topic}")


@pytest.mark.parametrize("request_id", BAD_REQUESTS.values(), ids=BAD_REQUESTS)
def test_parse_with_illegal_request(request_id: str) -> None:
    with pytest.raises(InvalidTopic):
        Topics().parse(f"sled/v1/device/pi-7/answer/{request_id}")


@pytest.mark.parametrize(
    "session",
    [
        "",
        "+",
        "#",
        "00C0FFEE00C0FFEE",
        "00c0ffee00c0ffe",
        "00c0ffee00c0ffee0",
        "00c0ffee00c0ffee\n",
        "0x00c0ffee00c0ff",
    ],
)
def test_parse_with_illegal_session(session: str) -> None:
    with pytest.raises(InvalidTopic):
        Topics().parse(f"sled/v1/device/pi-7/session/{session}")


@pytest.mark.parametrize(
    "topic",
    [
        *(
            "",
            "sled",
            "sled/v1",
            "sled/v1/",
            "sled/v2/device/pi-7/ask",
            "sled/v1x/device/pi-7/ask",
            "/sled/v1/device/pi-7/ask",
        ),
        *(
            "SLED/v1/device/pi-7/ask",
            "device/pi-7/ask",
            "sled/v1/device",
            "sled/v1/device/pi-7",
            "sled/v1/device/pi-7/asks",
        ),
        *(
            "sled/v1/device/pi-7/ask/",
            "sled/v1/device/pi-7/ask/now",
            "sled/v1//device/pi-7/ask",
            "sled/v1/verifier/desk",
        ),
        *(
            "sled/v1/device/pi-7/draft",
            "sled/v1/device/pi-7/session",
            "sled/v1/device/pi-7/ask\n",
            "$SYS/broker/version",
        ),
    ],
)
def test_parse_of_foreign_topic(topic: str) -> None:
    with pytest.raises(InvalidTopic):
        Topics().parse(topic)


@patient
@given(st.text(max_size=80), st.booleans())
def test_parse_of_random_text(text: str, below: bool) -> None:
    """What parses can be built again, letter by letter; nothing else gets through."""
    topic = f"sled/v1/device/{text}" if below else text
    try:
        found = Topics().parse(topic)
    except InvalidTopic:
        return
    names = {"device": found.device, "verifier": found.verifier, "request": found.request}
    assert topic == "sled/v1/" + found.family.value.format(session=found.session.hex(), **names)


@pytest.mark.parametrize("root", ["sled", "sled/v1", "a/b/c/d", "Home_1/Floor-2"])
def test_root_of_plain_levels(root: str) -> None:
    assert Topics(root).ask("pi-7") == f"{root}/device/pi-7/ask"


@pytest.mark.parametrize("root", BAD_ROOTS, ids=ascii)
def test_root_with_illegal_levels(root: str) -> None:
    with pytest.raises(InvalidTopic, match="no valid topic root"):
        Topics(root)
