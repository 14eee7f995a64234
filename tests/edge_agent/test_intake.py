"""Asks, made into requests. The tokenizer is a real one of single bytes, without and with a chat template."""

from __future__ import annotations

from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from broker.message import Message
from edge_agent.intake import AskError, new_request_id, reply_wanted, spooled
from edge_agent.reply import NOWHERE_ELSE, Reply
from edge_agent.spool import Spooled
from edge_agent.tokenizer import ChatTokenizer
from schemas.limits import MAX_CONTEXT_TOKENS
from schemas.messages import Ask, ChatMessage, Sampling, StopRules
from schemas.topics import Topics, check_request

DIGEST = "70ce11a5"
TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>"
STRICT = "{% if messages[0].role != 'user' %}{{ raise_exception('begin with the user') }}{% endif %}x"


def bytewise(chat_template: str | None = None) -> ChatTokenizer:
    vocabulary = {letter: number for number, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    backend: Any = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend)
    tokenizer.chat_template = chat_template
    return ChatTokenizer(tokenizer)


@pytest.fixture(scope="module")
def plain() -> ChatTokenizer:
    return bytewise()


@pytest.fixture(scope="module")
def chat() -> ChatTokenizer:
    return bytewise(TEMPLATE)


def test_prompt_becomes_a_request_with_every_choice_made(plain: ChatTokenizer) -> None:
    request = spooled(Ask(prompt="Hi"), "ask-1", plain, DIGEST, max_tokens=256)
    assert request == Spooled(
        "ask-1", request.session, tuple(plain.encode_text("Hi")), 256, DIGEST, Sampling(), StopRules(), ()
    )
    assert len(request.session) == 8


def test_prompt_is_one_message_of_the_user(chat: ChatTokenizer) -> None:
    request = spooled(Ask(prompt="Hi"), "ask-1", chat, DIGEST, max_tokens=256)
    assert chat.decode(list(request.prompt)) == "<user>Hi<assistant>"


def test_messages_keep_their_order_and_roles(chat: ChatTokenizer) -> None:
    ask = Ask(messages=(ChatMessage("system", "Be short."), ChatMessage("user", "Hi")))
    request = spooled(ask, "ask-1", chat, DIGEST, max_tokens=256)
    assert chat.decode(list(request.prompt)) == "<system>Be short.<user>Hi<assistant>"


def test_options_of_the_ask_are_kept(plain: ChatTokenizer) -> None:
    ask = Ask(
        prompt="Hi",
        max_tokens=7,
        temperature=0.5,
        top_k=40,
        top_p=0.9,
        seed=42,
        stop=("\n", "END"),
        ignore_end=True,
        revise=True,
    )
    request = spooled(ask, "ask-1", plain, DIGEST, max_tokens=256)
    assert request.max_tokens == 7
    assert request.sampling == Sampling(0.5, 40, 0.9, 42)
    assert request.stop == StopRules(ignore_end=True)
    assert request.stop_strings == ("\n", "END")
    assert request.revise


def test_session_ids_are_drawn_anew_even_for_the_same_ask(plain: ChatTokenizer) -> None:
    drawn = {spooled(Ask(prompt="Hi"), "ask-1", plain, DIGEST, max_tokens=8).session for _ in range(20)}
    assert len(drawn) == 20


def test_seed_left_open_is_drawn_only_where_it_matters(plain: ChatTokenizer) -> None:
    """It is kept in the request, so that a restart goes on with the same noise."""
    sampled = Ask(prompt="Hi", temperature=1.0)
    seeds = {spooled(sampled, "ask-1", plain, DIGEST, max_tokens=8).sampling.seed for _ in range(20)}
    assert len(seeds) == 20
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert spooled(Ask(prompt="Hi"), "ask-1", plain, DIGEST, max_tokens=8).sampling.seed == 0


def test_seed_zero_is_a_seed(plain: ChatTokenizer) -> None:
    ask = Ask(prompt="Hi", temperature=1.0, seed=0)
    assert spooled(ask, "ask-1", plain, DIGEST, max_tokens=8).sampling.seed == 0


def test_answer_is_cut_to_what_a_session_may_have(plain: ChatTokenizer) -> None:
    ask = Ask(prompt="Hi", max_tokens=MAX_CONTEXT_TOKENS)
    assert spooled(ask, "ask-1", plain, DIGEST, max_tokens=8).max_tokens == MAX_CONTEXT_TOKENS - 2


def test_longest_prompt_leaves_one_token(plain: ChatTokenizer) -> None:
    ask = Ask(prompt="x" * (MAX_CONTEXT_TOKENS - 1))
    assert spooled(ask, "ask-1", plain, DIGEST, max_tokens=8).max_tokens == 1


def test_prompt_too_long_names_both_lengths(plain: ChatTokenizer) -> None:
    with pytest.raises(AskError, match=f"has {MAX_CONTEXT_TOKENS} tokens, but a session has at most") as caught:
        spooled(Ask(prompt="x" * MAX_CONTEXT_TOKENS), "ask-1", plain, DIGEST, max_tokens=8)
    assert caught.value.code == "prompt_too_long"


@pytest.mark.parametrize("ask", [Ask(), Ask(prompt=" \n"), Ask(messages=(ChatMessage("user", ""),))])
def test_nothing_to_answer_is_refused(plain: ChatTokenizer, ask: Ask) -> None:
    with pytest.raises(AskError, match="prompt is empty") as caught:
        spooled(ask, "ask-1", plain, DIGEST, max_tokens=8)
    assert caught.value.code == "invalid_prompt"


def test_conversation_that_the_template_refuses_is_refused_in_its_words() -> None:
    ask = Ask(messages=(ChatMessage("assistant", "Hi"),))
    with pytest.raises(AskError, match="template refuses this conversation: begin with the user") as caught:
        spooled(ask, "ask-1", bytewise(STRICT), DIGEST, max_tokens=8)
    assert caught.value.code == "invalid_prompt"


def test_new_request_ids_differ_and_may_be_part_of_a_topic() -> None:
    drawn = {check_request(new_request_id()) for _ in range(100)}
    assert len(drawn) == 100


# Where the answer is wanted -------------------------------------------------------------------------------------------


def wanted(topic: str | None, correlation: bytes | None = b"\x00") -> Reply:
    ask = Message("sled/v1/device/pi/ask", b"Hi", response_topic=topic, correlation=correlation)
    return reply_wanted(ask, Topics(), "pi")


@pytest.mark.parametrize(
    "topic", ["my/inbox", "sled/v10/device/pi/verdict", "sled", "sled/v1/device/pi/answer/ask-1", "a/$b", "/"]
)
def test_reply_to_a_topic_of_the_apps_is_accepted(topic: str) -> None:
    """Or to an answer topic of the device itself."""
    assert wanted(topic) == Reply(topic, b"\x00")


def test_reply_without_response_topic_has_only_its_correlation() -> None:
    assert wanted(None) == Reply(None, b"\x00")
    assert wanted(None, None) == NOWHERE_ELSE


@pytest.mark.parametrize(
    "topic",
    [
        "",
        "my/+",
        "my/#",
        "a\0b",
        "x" * 65_536,
        "$CONTROL/dynamic-security/v1",
        "$SYS/broker/uptime",
        "sled/v1",
        "sled/v1/",
        "sled/v1/anything",
        "sled/v1/device/pi/ask",
        "sled/v1/device/pi/answer/",
        "sled/v1/device/pi/answer/a/b",
        "sled/v1/device/pi/verdict",
        "sled/v1/device/pi/session/0102030405060708",
        "sled/v1/device/other/answer/ask-1",
        "sled/v1/device/other/ask",
        "sled/v1/verifier/v0/state",
    ],
)
def test_reply_to_a_topic_that_is_not_the_apps_is_refused(topic: str) -> None:
    """A device may publish where an app may not, and must not be made to."""
    with pytest.raises(AskError, match=r"no answer is published to .*: give a response topic") as caught:
        wanted(topic)
    assert caught.value.code == "invalid_response_topic"
    assert len(str(caught.value)) < 400
