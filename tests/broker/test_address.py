"""What people may write to name a broker."""

import pytest

from broker.address import BrokerAddress, parse_addresses


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("pi", BrokerAddress("pi", 1883)),
        ("10.0.0.7:1884", BrokerAddress("10.0.0.7", 1884)),
        ("[::1]", BrokerAddress("::1", 1883)),
        ("[fe80::1]:1884", BrokerAddress("fe80::1", 1884)),
        ("mqtt://pi", BrokerAddress("pi", 1883)),
        ("MQTT://pi/", BrokerAddress("pi", 1883)),
        ("mqtts://pi", BrokerAddress("pi", 8883, tls=True)),
        ("mqtts://pi:1", BrokerAddress("pi", 1, tls=True)),
        ("mqtt://ada@pi", BrokerAddress("pi", 1883, "ada")),
        ("mqtt://ada:l%40ce@pi:1884", BrokerAddress("pi", 1884, "ada", "l@ce")),
        ("mqtt://ada:@pi", BrokerAddress("pi", 1883, "ada", "")),
        ("ada:lace@[::1]:1884", BrokerAddress("::1", 1884, "ada", "lace")),
        ("mqtt5://pi", BrokerAddress("pi", 1883, mqtt5=True)),
        ("mqtt5s://ada@pi", BrokerAddress("pi", 8883, "ada", tls=True, mqtt5=True)),
    ],
)
def test_parse(text: str, expected: BrokerAddress) -> None:
    """Every form in the documentation is read."""
    assert BrokerAddress.parse(text) == expected


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("", "host is missing"),
        (":1883", "host is missing"),
        ("mqtt://", "host is missing"),
        ("http://pi", "scheme 'http'"),
        ("pi:port", "port"),
        ("pi:0", "port"),
        ("pi:", "port"),
        ("pi:65536", "ort"),
        ("pi:-1", "ort"),
        ("my pi", "white space"),
        ("pi/topic", "nothing may follow"),
        ("pi?x=1", "nothing may follow"),
        ("[::1", "IPv6"),
        ("x" * 70, "not a host name"),
    ],
)
def test_parse_bad(text: str, wrong: str) -> None:
    """What cannot be read is refused with a sentence that says what is wrong and what to write."""
    with pytest.raises(ValueError, match=wrong) as caught:
        BrokerAddress.parse(text)
    assert "write host, host:port or mqtt://" in str(caught.value)


def test_password_is_not_shown() -> None:
    """A password appears neither in the text of an address nor in an error about it."""
    address = BrokerAddress.parse("mqtt://ada:secret@pi")
    assert "secret" not in f"{address} {address!r}"
    with pytest.raises(ValueError, match="port") as caught:
        BrokerAddress.parse("mqtt://ada:secret@pi:0")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("text", ["pi:1884", "[::1]:1884"])
def test_str(text: str) -> None:
    """The text of an address can be read back."""
    assert str(BrokerAddress.parse(text)) == text


def test_several_addresses() -> None:
    """Commas separate them; the first one is the preferred one."""
    assert parse_addresses("pi") == (BrokerAddress("pi"),)
    assert parse_addresses("mqtts://pi, mqtts://ada:a%2Cb@box:1") == (
        BrokerAddress("pi", 8883, tls=True),
        BrokerAddress("box", 1, "ada", "a,b", tls=True),
    )


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("pi,", "host is missing"),
        ("pi,pi:1883", "pi:1883, pi:1883 names a broker twice"),
        ("mqtts://pi,box", "the same scheme"),
        ("mqtt5://pi,mqtt://box", "the same scheme"),
    ],
)
def test_several_bad_addresses(text: str, wrong: str) -> None:
    """What one client cannot use by turns is refused."""
    with pytest.raises(ValueError, match=wrong):
        parse_addresses(text)
