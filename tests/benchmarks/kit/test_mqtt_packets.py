"""Packets are found wherever the stream is cut, and what is no MQTT passes as it came."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.kit.mqtt_packets import CONNACK, CONNECT, LONGEST, Packet, Packets

# The examples of MQTT 3.1.1: a CONNECT of "sled-probe", QoS 0 and QoS 1 PUBLISH, PINGREQ, SUBSCRIBE, PUBREL.
HELLO = b"\x10\x16\x00\x04MQTT\x04\x02\x00\x0a\x00\x0asled-probe"
NEWS = b"\x30\x06\x00\x03a/bx"
NEWS_1 = b"\x33\x08\x00\x03a/b\x00\x07x"
LONG = b"\x30\x85\x01\x00\x03a/b" + bytes(128)
PING = b"\xc0\x00"
SUBSCRIBE = b"\x82\x06\x00\x01\x00\x01#\x01"
PUBREL = b"\x62\x02\x00\x07"
STREAM = [HELLO, SUBSCRIBE, NEWS, PING, LONG, NEWS_1, PUBREL, PING]


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % len(data) for place in places), len(data)]
    return [data[begin:end] for begin, end in pairwise(edges)]


@given(st.lists(st.integers(0, 10_000), max_size=40))
def test_packets_are_found_wherever_the_stream_is_cut(places: list[int]) -> None:
    packets = Packets(CONNECT)
    found = [packet for piece in cut(b"".join(STREAM), places) for packet in packets.feed(piece)]
    assert [packet.data for packet in found] == STREAM
    assert [packet.topic for packet in found] == [None, None, "a/b", None, "a/b", "a/b", None, None]
    assert (packets.lost_track, packets.rest()) == ("", b"")


def test_an_unfinished_packet_is_held_and_can_be_had() -> None:
    packets = Packets(CONNECT)
    assert packets.feed(HELLO + NEWS[:4]) == [Packet(HELLO)]
    assert packets.rest() == NEWS[:4]
    assert packets.rest() == b""


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        (b"\x36\x08\x00\x03a/b\x00\x07x", "QoS 3"),
        (b"\x00\x00", "kind 0"),
        (b"\xc1\x00", "flags 1"),
        (b"\x80\x06\x00\x01\x00\x01#\x01", "flags 0"),
        (b"\x30\xff\xff\xff\xff\x01", "more than four bytes"),
        (b"\x30\x81\x80\x80\x02", "more than"),
        (b"\x30\x04\x00\x09a/", "longer than the packet"),
        (b"\x30\x01\x00", "longer than the packet"),
        (b"\x30\x04\x00\x02\xff\xfe", "no UTF-8"),
    ],
)
def test_what_is_no_packet_passes_as_it_came_with_all_that_follows(wrong: bytes, why: str) -> None:
    packets = Packets(CONNECT)
    found = [*packets.feed(HELLO + wrong), *packets.feed(NEWS)]
    assert why in packets.lost_track
    assert found[0] == Packet(HELLO)
    assert b"".join(packet.data for packet in found) == HELLO + wrong + NEWS
    assert {packet.topic for packet in found} == {None}


@pytest.mark.parametrize(("first", "begin"), [(CONNECT, NEWS), (CONNACK, HELLO), (CONNECT, b"GET / HTTP/1.1\r\n")])
def test_a_stream_must_begin_as_its_side_does(first: int, begin: bytes) -> None:
    packets = Packets(first)
    assert packets.feed(begin) == [Packet(begin)]
    assert "first packet" in packets.lost_track


def test_the_longest_packet_is_still_waited_for() -> None:
    packets = Packets(CONNACK)
    packets.feed(b"\x20\x02\x00\x00")
    size = LONGEST
    header = bytearray([0x30])
    while size:
        header.append(size & 0x7F | (0x80 if size >> 7 else 0))
        size >>= 7
    assert packets.feed(bytes(header)) == []
    assert packets.lost_track == ""


def test_sent_again_a_publish_says_so_if_it_may() -> None:
    assert Packet(NEWS_1, "a/b").again() == b"\x3b" + NEWS_1[1:]
    assert Packet(NEWS, "a/b").again() == NEWS, "QoS 0 is never sent again (MQTT-3.3.1-2)"
