"""Whether whoever listens somewhere shows a sign of life."""

from __future__ import annotations

import socket
import threading

import pytest

from broker.port import claim, lives


@pytest.mark.parametrize("tls", [False, True])
def test_who_takes_connections_and_says_nothing_does_not_live(tls: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as hung:
        assert not lives("127.0.0.1", hung.getsockname()[1], tls=tls, timeout=0.3)


@pytest.mark.parametrize("tls", [False, True])
def test_nobody_does_not_live(tls: bool) -> None:
    assert not lives("127.0.0.1", claim("127.0.0.1", 0), tls=tls, timeout=5)


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("word", [b"", b"\x20\x02\x00\x05"], ids=["hangs up", "refuses"])
def test_who_turns_a_newcomer_away_lives(tls: bool, word: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as full:

        def turn_away() -> None:
            with full.accept()[0] as newcomer:
                newcomer.sendall(word)

        threading.Thread(target=turn_away).start()
        assert lives("127.0.0.1", full.getsockname()[1], tls=tls, timeout=30)
