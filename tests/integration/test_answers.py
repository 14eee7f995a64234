"""A device answers over a real broker, and says exactly what the target alone would."""

from __future__ import annotations

import json
import logging
import os
import queue
import subprocess
import threading
from typing import TYPE_CHECKING

import pytest

from broker.client import Bridge
from schemas import codec
from schemas.messages import AgentState, Ask, DoneEvent, ErrorEvent, SessionContext, TokenEvent
from tests.integration.fleet import Fleet, alone, answer, last
from tests.waiting import wait_for

if TYPE_CHECKING:
    from broker.message import Message
    from sled.reference import Reference

PROMPTS = ["Why is the sky blue?", "abc", "Wie spät ist es? 🙂", "x" * 300, "a b c d e f g"]


def test_answer_is_the_targets_text(fleet: Fleet, reference: Reference) -> None:
    """Several prompts one after another; drafts are accepted and rejected on the way."""
    fleet.verifier()
    fleet.agent()
    drafted = accepted = 0
    with fleet.client() as client:
        for prompt in PROMPTS:
            tokens, done = answer(client, "pi", Ask(prompt=prompt, max_tokens=40))
            assert (tokens, done.text) == alone(reference, prompt, 40)
            assert done.lossless
            assert done.statistics.tokens == len(tokens)
            drafted += done.statistics.drafted
            accepted += done.statistics.accepted
    assert 0 < accepted < drafted, "the tiny drafter should be right sometimes and wrong sometimes"


@pytest.mark.parametrize("draft", [1, 3, 9])
def test_draft_length_does_not_change_the_text(fleet: Fleet, reference: Reference, draft: int) -> None:
    fleet.verifier()
    fleet.agent(draft=draft)
    with fleet.client() as client:
        tokens, _ = answer(client, "pi", Ask(prompt=PROMPTS[0], max_tokens=50))
    assert tokens == alone(reference, PROMPTS[0], 50)[0]


def test_several_devices_share_one_verifier(fleet: Fleet, reference: Reference) -> None:
    """Four devices ask at once; each text is its own."""
    fleet.verifier()
    for number in range(4):
        fleet.agent(f"pi-{number}", draft=number + 1)
    results: dict[int, tuple[int, ...]] = {}

    def ask(number: int) -> None:
        with fleet.client() as client:
            results[number], _ = answer(client, f"pi-{number}", Ask(prompt=PROMPTS[number], max_tokens=40))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert results == {number: alone(reference, PROMPTS[number], 40)[0] for number in range(4)}


def test_requests_queue_on_a_device(fleet: Fleet, reference: Reference) -> None:
    """Requests that come while one is answered wait their turn; beyond the bound they are refused."""
    fleet.verifier()
    fleet.agent(max_queue=2)
    ends: list[DoneEvent | ErrorEvent] = []

    def ask(prompt: str) -> None:
        with fleet.client() as client:
            event = last(client, "pi", Ask(prompt=prompt, max_tokens=300))
            assert isinstance(event, DoneEvent | ErrorEvent)
            ends.append(event)

    threads = [threading.Thread(target=ask, args=(f"question {number}",)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    refused = [event for event in ends if isinstance(event, ErrorEvent)]
    assert len(ends) == 6
    assert {event.code for event in refused} == {"queue_full"}
    assert 1 <= len(refused) <= 3


def test_stop_string_ends_the_text_before_it(fleet: Fleet, reference: Reference) -> None:
    fleet.verifier()
    fleet.agent()
    _, text = alone(reference, PROMPTS[0], 40)
    stop = text[10:13]
    with fleet.client() as client:
        event = last(client, "pi", Ask(prompt=PROMPTS[0], max_tokens=40, stop=(stop,)))
    assert isinstance(event, DoneEvent)
    assert event.text == text[: text.index(stop)]
    assert event.finish_reason == "stop"


def test_request_with_an_id_is_answered_once(fleet: Fleet) -> None:
    """Asked again with the same id, the device repeats the last event instead of working again."""
    fleet.verifier()
    fleet.agent()
    with fleet.client() as client:
        first = list(client.ask("pi", Ask(id="one", prompt="abc", max_tokens=20), timeout=30))
        again = list(client.ask("pi", Ask(id="one", prompt="abc", max_tokens=20), timeout=30))
    assert len(first) > 2
    assert len(again) == 2, "the whole text at once, and the end"
    assert again[-1] == first[-1]


def test_cancel_ends_a_request(fleet: Fleet) -> None:
    fleet.verifier()
    fleet.agent(draft=1)
    with fleet.client() as client:
        events = client.ask("pi", Ask(id="long", prompt="abc", max_tokens=500, ignore_end=True), timeout=30)
        assert isinstance(next(events), TokenEvent)
        client.cancel("pi", "long")
        end = list(events)[-1]
    assert isinstance(end, DoneEvent)
    assert end.finish_reason == "cancelled"
    assert end.statistics.tokens < 500


def test_prompt_longer_than_the_context_is_refused(fleet: Fleet) -> None:
    fleet.verifier()
    fleet.agent()
    with fleet.client() as client:
        event = last(client, "pi", Ask(prompt="x" * 700))
    assert isinstance(event, ErrorEvent)
    assert event.code == "prompt_too_long"
    assert "700" in event.message


def test_other_tokenizer_is_refused_before_the_first_draft(fleet: Fleet) -> None:
    fleet.verifier(tokenizer="0123456789abcdef")
    fleet.agent()
    with fleet.client() as client:
        event = last(client, "pi", Ask(prompt="abc"))
    assert isinstance(event, ErrorEvent)
    assert event.code == "tokenizer_mismatch"
    assert "0123456789abcdef" in event.message


def test_retained_contexts_do_not_pile_up(fleet: Fleet) -> None:
    """After the answer the broker holds the states and nothing else."""
    fleet.verifier()
    fleet.agent()
    with fleet.client() as client:
        answer(client, "pi", Ask(prompt="abc", max_tokens=20))
    retained: queue.Queue[Message] = queue.Queue()
    late = Bridge(fleet.address)
    late.subscribe("sled/v1/#", retained.put)
    with late:
        late.wait_up(5)
        late.flush(5)
        topics: set[str] = set()
        while len(topics) < 2:
            topics.add(retained.get(timeout=5).topic)
    assert topics == {"sled/v1/device/pi/state", "sled/v1/verifier/verifier/state"}
    assert retained.empty()


def test_stopped_agent_says_offline(fleet: Fleet) -> None:
    agent = fleet.agent()
    states: queue.Queue[Message] = queue.Queue()
    watcher = Bridge(fleet.address)
    watcher.subscribe("sled/v1/device/pi/state", states.put)
    with watcher:
        while codec.decode_state(states.get(timeout=10).payload, AgentState).status != "online":
            pass
        fleet.stop(agent)
        assert codec.decode_state(states.get(timeout=10).payload, AgentState).status == "offline"


def test_any_mqtt_client_can_hold_a_conversation(fleet: Fleet, reference: Reference) -> None:
    """`mosquitto_pub` asks in plain text, `mosquitto_sub` reads JSON."""
    fleet.verifier()
    fleet.agent()
    where = ["-h", fleet.address.host, "-p", str(fleet.address.port)]
    try:
        reading = subprocess.Popen(
            ["mosquitto_sub", *where, "-t", "sled/v1/device/pi/answer/+", "-W", "30"],
            stdout=subprocess.PIPE,
            text=True,
        )
    except FileNotFoundError:
        if os.environ.get("SLED_REQUIRE_MOSQUITTO") == "1":
            raise
        pytest.skip("mosquitto-clients are not installed")
    with reading, fleet.client() as client:
        assert client.wait_online(timeout=10)
        subprocess.run(
            ["mosquitto_pub", *where, "-q", "1", "-t", "sled/v1/device/pi/ask", "-m", "Why is the sky blue?"],
            check=True,
        )
        assert reading.stdout is not None
        for line in reading.stdout:
            event = json.loads(line)
            if event["event"] == "done":
                break
        reading.terminate()
    assert event["text"] == alone(reference, "Why is the sky blue?", 256)[1]


def test_context_cleared_by_somebody_else_does_not_end_the_answer(fleet: Fleet, reference: Reference) -> None:
    """Whoever can publish can clear a retained topic; the agent opens the session again."""
    fleet.verifier()
    fleet.agent(draft=1)
    heard: queue.Queue[Message] = queue.Queue()
    thief = Bridge(fleet.address)
    thief.subscribe("sled/v1/device/pi/session/+", heard.put)
    with thief, fleet.client() as client:
        thief.wait_up(10)
        events = client.ask("pi", Ask(prompt="abc", max_tokens=300, ignore_end=True), timeout=30)
        tokens: list[int] = []
        for event in events:
            if isinstance(event, TokenEvent):
                tokens += event.tokens
                if len(tokens) in range(20, 24):
                    thief.publish(heard.queue[0].topic, b"", retain=True)
        assert isinstance(event, DoneEvent)
    contexts = [codec.decode(message.payload, SessionContext) for message in heard.queue if message.payload]
    assert contexts[-1].epoch.counter > contexts[0].epoch.counter
    assert tuple(tokens[:100]) == alone(reference, "abc", 300)[0][:100]
    assert len(tokens) == 300


def test_prompt_longer_than_the_verifiers_memory_is_refused(fleet: Fleet) -> None:
    """It could be begun and never ended, so it is not begun; the next request is answered."""
    fleet.verifier(kv_budget=1 << 17)
    fleet.agent()
    with fleet.client() as client:
        event = last(client, "pi", Ask(prompt="x" * 400))
        assert isinstance(event, ErrorEvent)
        assert event.code == "prompt_too_long"
        assert isinstance(last(client, "pi", Ask(prompt="abc", max_tokens=5)), DoneEvent)


def test_text_is_not_continued_by_another_target(fleet: Fleet, reference: Reference) -> None:
    """The verifier of the target that began it goes; one for another target is there; the text waits for its own."""
    first = fleet.verifier("v1")
    fleet.agent(draft=1)
    with fleet.client() as client:
        events = client.ask("pi", Ask(prompt="abc", max_tokens=200, ignore_end=True), timeout=60)
        tokens = list(next(event.tokens for event in events if isinstance(event, TokenEvent)))
        fleet.stop(first)
        fleet.verifier("v2", target="other")
        fleet.verifier("v3")
        for event in events:
            if isinstance(event, TokenEvent):
                tokens += event.tokens
    assert isinstance(event, DoneEvent)
    assert event.verifier == "v3"
    assert tuple(tokens[:50]) == alone(reference, "abc", 50)[0][:50]


def test_text_waits_for_a_verifier_that_can_hold_all_of_it(
    fleet: Fleet, reference: Reference, caplog: pytest.LogCaptureFixture
) -> None:
    """The one that began it goes; one with less memory is there; the text ends where it would have ended."""
    caplog.set_level(logging.INFO)
    first = fleet.verifier("large")
    fleet.verifier("small", kv_budget=1 << 17)
    agent = fleet.agent(draft=1)
    with fleet.client() as client:
        assert client.wait_online(verifiers=2, timeout=30)
        ask = Ask(id="long", prompt="abc", max_tokens=500, ignore_end=True)
        events = client.ask("pi", ask, timeout=60)
        tokens = list(next(event.tokens for event in events if isinstance(event, TokenEvent)))
        fleet.stop(first)
        wait_for(lambda: "long: outage after" in caplog.text)
        fleet.verifier("other")
        for event in events:
            if isinstance(event, TokenEvent):
                tokens += event.tokens
    assert isinstance(event, DoneEvent)
    assert (event.finish_reason, event.verifier, event.lossless) == ("length", "other", True)
    assert (len(tokens), tuple(tokens[:200])) == (500, alone(reference, "abc", 500)[0][:200])
    assert "request long moves from verifier large to other (gone)" in caplog.text
    assert agent.metrics.registry.get_sample_value("sled_agent_moves_total", {"reason": "gone"}) == 1
