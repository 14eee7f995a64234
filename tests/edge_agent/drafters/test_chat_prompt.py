"""Conversations told again in another chat template."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from edge_agent.drafters.chat_prompt import ChatPrompt
from edge_agent.drafters.translation import Translation
from edge_agent.drafters.vocabulary import Vocabulary
from edge_agent.tokenizer import ChatTokenizer
from tests.edge_agent.drafters.small_tokenizers import MAKERS

if TYPE_CHECKING:
    from pathlib import Path

CHATML = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nBe kind.<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
HEADERS = (
    "<|begin_of_text|>{% for m in messages %}[{{ m['role'] }}]\n{{ m['content'] | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}[assistant]\n{% endif %}"
)
NO_SYSTEM = (
    "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no system message') }}{% endif %}"
    "{{ '[INST] ' + m['content'] + ' [/INST]' if m['role'] == 'user' else m['content'] + '</s>' }}{% endfor %}"
)
TEMPLATES = {"gpt2": CHATML, "gpt4": HEADERS, "sentencepiece": NO_SYSTEM}
PAIRS = [("gpt2", "gpt4"), ("gpt4", "gpt2"), ("gpt2", "sentencepiece"), ("sentencepiece", "gpt4")]
ROLES = ("user", "assistant")
CONTENTS = st.text(st.sampled_from("ab .\n[]<|>é好"), min_size=1, max_size=12).filter(
    lambda text: text == text.strip() != ""
)


@pytest.fixture(scope="module")
def chats(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ChatTokenizer]:
    """Tokenizers with chat templates, and one without."""
    return {
        name: save(tmp_path_factory.mktemp(name), name, template)
        for name, template in (TEMPLATES | {"unigram": None}).items()
    }


def save(folder: Path, name: str, template: str | None) -> ChatTokenizer:
    fast = PreTrainedTokenizerFast(tokenizer_object=MAKERS[name]())
    fast.chat_template = template
    fast.save_pretrained(str(folder))
    return ChatTokenizer.load(folder)


def prompt_of(chats: dict[str, ChatTokenizer], target: str, own: str) -> ChatPrompt:
    return ChatPrompt(chats[target], Vocabulary(chats[target].canonical_json), chats[own])


def conversation(contents: list[str], system: str | None = None) -> list[dict[str, str]]:
    """Messages of the user and the assistant in turn."""
    turns = [{"role": ROLES[at % 2], "content": content} for at, content in enumerate(contents)]
    return [{"role": "system", "content": system}, *turns] if system else turns


@pytest.mark.parametrize(("target", "own"), PAIRS)
@settings(max_examples=50)
@given(first=CONTENTS, others=st.lists(st.tuples(CONTENTS, CONTENTS), max_size=2), system=CONTENTS | st.none())
def test_retold_is_the_conversation_in_the_drafter_s_template(
    chats: dict[str, ChatTokenizer],
    target: str,
    own: str,
    first: str,
    others: list[tuple[str, str]],
    system: str | None,
) -> None:
    if "sentencepiece" in {target, own}:
        system = None  # its template refuses them
    messages = conversation([first, *(content for pair in others for content in pair)], system)
    retold = prompt_of(chats, target, own).retold(chats[target].encode_chat(messages))
    assert retold == chats[own].encode_chat(messages)


def test_retold_by_a_template_without_system_messages_is_none(chats: dict[str, ChatTokenizer]) -> None:
    prompt = chats["gpt2"].encode_chat(conversation(["Hi"], "Be brief."))
    assert prompt_of(chats, "gpt2", "sentencepiece").retold(prompt) is None
    assert prompt_of(chats, "gpt2", "gpt4").retold(prompt) is not None


@pytest.mark.parametrize("change", ["cut", "more", "other", "empty"])
def test_retold_of_what_is_no_prompt_is_none(chats: dict[str, ChatTokenizer], change: str) -> None:
    prompt = chats["gpt2"].encode_chat(conversation(["Hi there", "Hello", "Well?"]))
    changed = {"cut": prompt[:-1], "more": [*prompt, 40], "other": [40, *prompt], "empty": []}[change]
    assert prompt_of(chats, "gpt2", "gpt4").retold(changed) is None


def test_retold_other_tokens_for_the_same_words_are_none(chats: dict[str, ChatTokenizer]) -> None:
    """The very tokens must come again, not only the text."""
    prompt = chats["gpt2"].encode_chat(conversation(["the dog"]))
    letters = Vocabulary(chats["gpt2"].canonical_json)
    apart = [single for token in prompt for single in _apart(letters, token)]
    assert len(apart) > len(prompt)
    assert prompt_of(chats, "gpt2", "gpt4").retold(apart) is None


def _apart(own: Vocabulary, token: int) -> list[int]:
    piece = own.piece(token)
    return [token] if piece is None else [single for byte in piece for single in own.encode(bytes([byte]))]


@pytest.mark.parametrize(("target", "own"), [("gpt2", "unigram"), ("unigram", "gpt2")])
def test_retold_without_a_template_is_none(chats: dict[str, ChatTokenizer], target: str, own: str) -> None:
    prompt = chats[target].encode_chat(conversation(["Hi there"]))
    assert prompt_of(chats, target, own).retold(prompt) is None


def test_translation_begins_with_the_retold_prompt(chats: dict[str, ChatTokenizer]) -> None:
    """And again with the next, and without one where it is none."""
    target, own = (Vocabulary(chats[name].canonical_json) for name in ("gpt2", "gpt4"))
    told = prompt_of(chats, "gpt2", "gpt4")
    translation = Translation(target, own, told.retold)
    output = target.encode(b"I do not know, there is a dog.")
    for question in ("Who?", "Who?", "Where is it, and why?"):
        messages = conversation([question])
        prompt = chats["gpt2"].encode_chat(messages)
        for length in (len(output), 3, 5, 0, len(output)):
            text = b"".join(target.piece(token) or b"?" for token in output[:length])
            ids = translation.ids(prompt + output[:length], length)
            assert ids == chats["gpt4"].encode_chat(messages) + own.encode(text)
        plain = translation.ids(output, len(output))
        assert plain == Translation(target, own).ids(output)
