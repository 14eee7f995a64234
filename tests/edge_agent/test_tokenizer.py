"""A model folder's tokenizer, without torch."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from edge_agent.tokenizer import ChatTokenizer, TokenizerError

if TYPE_CHECKING:
    from pathlib import Path

TEMPLATE = (
    "{% for m in messages %}{% if m['role'] == 'tool' %}{{ raise_exception('no tools here') }}{% endif %}"
    "<start>{{ m['role'] }}\n{{ m['content'] }}<end>\n{% endfor %}"
    "{% if add_generation_prompt %}<start>assistant\n{% endif %}"
)
TORCHLESS = """
import sys
from pathlib import Path
sys.modules["torch"] = None  # importing it fails, as where it is not installed
from edge_agent.tokenizer import ChatTokenizer
tokenizer = ChatTokenizer.load(Path(sys.argv[1]))
tokens = tokenizer.encode_chat([{"role": "user", "content": "Hé"}])
sys.stdout.write(tokenizer.decode(tokens))
"""


def save(folder: Path, *, template: str | None = TEMPLATE, extra: tuple[str, ...] = ()) -> Path:
    """Write a byte-level tokenizer with 256 letters and two or more special tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: index for index, letter in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<start>", "<end>", *extra])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer)
    fast.bos_token, fast.eos_token = "<start>", "<end>"
    fast.chat_template = template
    fast.save_pretrained(str(folder))
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a chat tokenizer."""
    return save(tmp_path_factory.mktemp("chat"))


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> ChatTokenizer:
    """The chat tokenizer, loaded."""
    return ChatTokenizer.load(folder)


def test_encode_chat_follows_the_template(tokenizer: ChatTokenizer) -> None:
    tokens = tokenizer.encode_chat([{"role": "system", "content": "Be"}, {"role": "user", "content": "Hé\n"}])
    assert [token for token in tokens if token >= 256] == [256, 257, 256, 257, 256]
    assert tokenizer.decode(tokens) == "system\nBe\nuser\nHé\n\nassistant\n"


def test_encode_chat_without_template_encodes_the_last_user_message(tmp_path: Path) -> None:
    plain = ChatTokenizer.load(save(tmp_path, template=None))
    messages = [
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "1"},
        {"role": "user", "content": "two"},
    ]
    assert plain.encode_chat(messages) == plain.encode_text("two")
    with pytest.raises(ValueError, match="no message of the user"):
        plain.encode_chat(messages[1:2])


def test_encode_text_and_decode_are_inverse(tokenizer: ChatTokenizer) -> None:
    assert tokenizer.decode(tokenizer.encode_text(" Hé, 好 ! ")) == " Hé, 好 ! "


def test_encode_text_empty_is_refused(tokenizer: ChatTokenizer) -> None:
    with pytest.raises(ValueError, match="The prompt is empty"):
        tokenizer.encode_text(" \n")


@pytest.mark.parametrize(
    ("messages", "complaint"),
    [
        ([], "The prompt is empty"),
        ([{"role": "user", "content": "  "}], "The prompt is empty"),
        ([{"role": "user"}], "Message 1 has no text under 'content'"),
        ([{"role": "user", "content": "Hi"}, {"content": "Hi"}], "Message 2 has no text under 'role'"),
        ([{"role": "tool", "content": "Hi"}], "template refuses this conversation: no tools here"),
    ],
)
def test_encode_chat_refuses_in_a_sentence(
    tokenizer: ChatTokenizer, messages: list[dict[str, str]], complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint):
        tokenizer.encode_chat(messages)


def test_vocab_size_counts_added_tokens(tokenizer: ChatTokenizer) -> None:
    assert tokenizer.vocab_size == 258


def test_canonical_json_tells_tokenizers_apart(folder: Path, tokenizer: ChatTokenizer, tmp_path: Path) -> None:
    assert ChatTokenizer.load(folder).canonical_json == tokenizer.canonical_json
    other = ChatTokenizer.load(save(tmp_path, extra=("<more>",)))
    assert other.canonical_json != tokenizer.canonical_json


def test_canonical_json_ignores_padding_and_truncation(folder: Path, tokenizer: ChatTokenizer, tmp_path: Path) -> None:
    """They are settings of whoever saved the file."""
    stored = Tokenizer.from_file(str(folder / "tokenizer.json"))
    stored.enable_truncation(16)
    stored.enable_padding(length=16, pad_id=257, pad_token="<end>")  # noqa: S106 - no password
    save(tmp_path)
    stored.save(str(tmp_path / "tokenizer.json"))
    assert ChatTokenizer.load(tmp_path).canonical_json == tokenizer.canonical_json


def test_load_folder_without_tokenizer_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match=r"has no tokenizer\.json"):
        ChatTokenizer.load(tmp_path)


def test_load_damaged_tokenizer_is_an_error(tmp_path: Path) -> None:
    save(tmp_path)
    (tmp_path / "tokenizer.json").write_text('{"version": "1.0", "model"')
    with pytest.raises(TokenizerError, match=r"cannot be read .*copy its tokenizer files again"):
        ChatTokenizer.load(tmp_path)


@pytest.mark.parametrize("change", ["named otherwise", "no config"])
def test_load_leaves_other_classes_to_transformers(change: str, tokenizer: ChatTokenizer, tmp_path: Path) -> None:
    """And comes to the same tokenizer here, where no other class is installed for it."""
    config = save(tmp_path) / "tokenizer_config.json"
    if change == "named otherwise":
        config.write_text(config.read_text().replace('"TokenizersBackend"', '"SomebodysTokenizer"'))
        assert "SomebodysTokenizer" in config.read_text()
    else:
        config.unlink()
    assert ChatTokenizer.load(tmp_path).canonical_json == tokenizer.canonical_json


def test_load_brings_no_torch(folder: Path) -> None:
    """Even where it is installed: an agent would start seconds later for it."""
    code = TORCHLESS.replace('sys.modules["torch"] = None', "assert True") + 'assert "torch" not in sys.modules\n'
    subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, check=True, timeout=120)


def test_load_without_torch_works_and_says_nothing(folder: Path) -> None:
    """A device has no torch; transformers would print that it misses it."""
    result = subprocess.run(
        [sys.executable, "-c", TORCHLESS, str(folder)], capture_output=True, text=True, check=True, timeout=120
    )
    assert result.stdout == "user\nHé\nassistant\n"
    assert result.stderr == ""
