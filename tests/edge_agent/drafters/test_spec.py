"""Drafters named on the command line."""

from __future__ import annotations

import builtins
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from edge_agent.drafters.drafter import DrafterError
from edge_agent.drafters.lookup import LONGEST_MATCH
from edge_agent.drafters.own_tokenizer import tokenizer_folder
from edge_agent.drafters.spec import DrafterSpec, open_drafter, parse_drafter
from edge_agent.tokenizer import ChatTokenizer
from tests.edge_agent.drafters.kinds import DECODER
from tests.models.other_tokenizer import save_with_other_tokenizer
from tests.models.tiny import VOCAB, save_llama, save_tokenizer

if TYPE_CHECKING:
    from collections.abc import Callable

FOLDER = Path("some/folder")


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("some/folder", DrafterSpec("onnx", FOLDER)),
        (" onnx:some/folder ", DrafterSpec("onnx", FOLDER)),
        ("transformers:some/folder", DrafterSpec("transformers", FOLDER)),
        ("lookup", DrafterSpec(lookup=LONGEST_MATCH)),
        ("lookup:6", DrafterSpec(lookup=6)),
        ("lookup+some/folder", DrafterSpec("onnx", FOLDER, LONGEST_MATCH)),
        ("lookup+onnx:some/folder", DrafterSpec("onnx", FOLDER, LONGEST_MATCH)),
        ("lookup:3+transformers:some/folder", DrafterSpec("transformers", FOLDER, 3)),
        ("cross:some/folder", DrafterSpec("onnx", FOLDER, cross=True)),
        (" cross: onnx:some/folder", DrafterSpec("onnx", FOLDER, cross=True)),
        ("cross:transformers:some/folder", DrafterSpec("transformers", FOLDER, cross=True)),
        ("lookup:3+cross:some/folder", DrafterSpec("onnx", FOLDER, 3, cross=True)),
        ("lookup+cross:transformers:some/folder", DrafterSpec("transformers", FOLDER, LONGEST_MATCH, cross=True)),
        ("onnx:cross:a", DrafterSpec("onnx", Path("cross:a"))),
        ("./cross", DrafterSpec("onnx", Path("cross"))),
        ("./lookup", DrafterSpec("onnx", Path("lookup"))),
        ("lookups", DrafterSpec("onnx", Path("lookups"))),
        ("a+b", DrafterSpec("onnx", Path("a+b"))),
        ("./a:b", DrafterSpec("onnx", Path("a:b"))),
        ("onnx:a:b", DrafterSpec("onnx", Path("a:b"))),
        (r"C:\models", DrafterSpec("onnx", Path(r"C:\models"))),
    ],
)
def test_parse_drafter_reads_every_form(text: str, spec: DrafterSpec) -> None:
    assert parse_drafter(text) == spec
    assert parse_drafter(str(spec)) == spec


def test_parse_drafter_home_folder_is_found() -> None:
    assert parse_drafter("onnx:~/drafter").folder == Path.home() / "drafter"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "'' is not known; write FOLDER or onnx:FOLDER"),
        ("onnx:", "'onnx:' is not known"),
        ("gguf:folder", "'gguf:folder' is not known"),
        ("transformer:folder", "'transformer:folder' is not known"),
        ("cross:", "'cross:' is not known"),
        ("cross:gguf:folder", "'cross:gguf:folder' is not known"),
        ("cross:cross:folder", "'cross:cross:folder' is not known"),
        ("lookup+", r"'lookup\+' is not known"),
        ("lookup+gguf:folder", r"'lookup\+gguf:folder' is not known"),
        ("lookup:", "'' should be the longest match in tokens, 2 or more"),
        ("lookup:many", "'many' should be the longest match"),
        ("lookup:1", "'1' should be the longest match"),
        ("lookup:-4+folder", "'-4' should be the longest match"),
    ],
)
def test_parse_drafter_refuses_in_a_sentence(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        parse_drafter(text)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ONNX decoder with a tokenizer beside it, in a folder of its own."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    DECODER.save(folder, "published", place="onnx/model.onnx")
    save_tokenizer(folder)
    return folder


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face folder."""
    folder = tmp_path_factory.mktemp("models") / "llama"
    folder.mkdir()
    return save_llama(folder)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("{onnx}", "tiny"),
        ("transformers:{llama}", "llama"),
        ("lookup", "lookup"),
        ("lookup+{onnx}", "lookup+tiny"),
        ("lookup:3+transformers:{llama}", "lookup+llama"),
    ],
)
def test_open_drafter_opens_every_form(exported: Path, llama: Path, text: str, name: str) -> None:
    spec = parse_drafter(text.format(onnx=exported, llama=llama))
    drafter = open_drafter([spec], threads=1)
    assert drafter.name == name
    drafter.propose([1, 2, 3])


def test_open_drafter_takes_the_first_that_works(exported: Path, tmp_path: Path) -> None:
    specs = [parse_drafter(text) for text in (str(tmp_path / "missing"), f"lookup+{exported}", "lookup")]
    assert open_drafter(specs, vocab_limit=29).name == "lookup+tiny"


def test_open_drafter_proposes_no_id_beyond_the_limit(exported: Path) -> None:
    drafter = open_drafter([DrafterSpec("onnx", exported)], vocab_limit=3)
    assert drafter.vocab_size == 3
    for token in range(20):
        proposal = drafter.propose([token])
        assert proposal is not None
        assert proposal.token < 3


def test_open_drafter_of_another_tokenizer_does_not_fit(exported: Path, llama: Path, tmp_path: Path) -> None:
    own = ChatTokenizer.load(exported).canonical_json
    assert open_drafter([DrafterSpec("onnx", exported)], tokenizer=own).name == "tiny"
    assert open_drafter([DrafterSpec("onnx", exported / "onnx" / "model.onnx")], tokenizer=own).name == "model"
    with pytest.raises(DrafterError, match="is not the target's, so its token ids mean other words"):
        open_drafter([DrafterSpec("onnx", exported)], tokenizer=own.replace("<end>", "<stop>"))


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory, llama: Path) -> Path:
    """The same llama with another tokenizer: the same letters with other ids."""
    return save_with_other_tokenizer(llama, tmp_path_factory.mktemp("models") / "other")


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("transformers:{other}", "draft through text with cross:transformers:{other}"),
        ("lookup+transformers:{other}", r"with lookup\+cross:transformers:{other}"),
    ],
)
def test_open_drafter_of_another_tokenizer_says_what_to_write(llama: Path, other: Path, text: str, advice: str) -> None:
    tokenizer = ChatTokenizer.load(llama).canonical_json
    with pytest.raises(DrafterError, match=advice.format(other=other)):
        open_drafter([parse_drafter(text.format(other=other))], tokenizer=tokenizer)


@pytest.mark.parametrize(("text", "name"), [("cross:{}", "cross:other"), ("lookup+cross:{}", "lookup+cross:other")])
def test_open_drafter_across_vocabularies_drafts_through_text(llama: Path, other: Path, text: str, name: str) -> None:
    """The models are the same, so what one says in its ids, the other says in its own."""
    chat = ChatTokenizer.load(llama)
    spec = parse_drafter(text.format(f"transformers:{other}"))
    drafter = open_drafter([spec], vocab_limit=VOCAB, tokenizer=chat.canonical_json, target=llama)
    assert drafter.name == name
    assert drafter.vocab_size == VOCAB
    plain = open_drafter([DrafterSpec("transformers", llama)], vocab_limit=chat.vocab_size)
    sequence = chat.encode_text("The dog, naïve 好")
    for _ in range(12):
        proposal, expected = drafter.propose(sequence), plain.propose(sequence)
        assert proposal is not None
        assert expected is not None
        assert proposal.token == expected.token
        assert proposal.confidence == pytest.approx(expected.confidence, abs=1e-4)
        sequence.append(proposal.token)


def test_open_drafter_across_vocabularies_of_the_same_tokenizer_is_plain(llama: Path) -> None:
    assert open_drafter([parse_drafter(f"cross:transformers:{llama}")], target=llama).name == "llama"


def test_open_drafter_across_vocabularies_needs_both_tokenizers(llama: Path, other: Path, tmp_path: Path) -> None:
    with pytest.raises(DrafterError, match="needs the target's tokenizer"):
        open_drafter([parse_drafter(f"cross:transformers:{other}")])
    bare = DECODER.save(tmp_path / "bare", "published")
    with pytest.raises(DrafterError, match=r"bare has no tokenizer\.json, so what its tokens spell is not known"):
        open_drafter([parse_drafter(f"cross:{bare}")], target=llama)
    with pytest.raises(DrafterError, match=r"bare has no tokenizer\.json; give the folder"):
        open_drafter([parse_drafter(f"cross:transformers:{other}")], target=bare)


def test_open_drafter_without_any_tokenizer_is_trusted(tmp_path: Path) -> None:
    folder = DECODER.save(tmp_path / "bare", "published")
    assert open_drafter([DrafterSpec("onnx", folder)], tokenizer="{}").name == "bare"


def test_open_drafter_damaged_tokenizer_is_told_of(tmp_path: Path) -> None:
    folder = DECODER.save(tmp_path / "tiny", "published")
    (folder / "tokenizer.json").write_text("nothing")
    with pytest.raises(DrafterError, match="cannot be read"):
        open_drafter([DrafterSpec("onnx", folder)], tokenizer="{}")


def test_open_drafter_vocabulary_too_small_does_not_fit(llama: Path) -> None:
    with pytest.raises(DrafterError, match=f"knows {VOCAB} token ids, but the target's tokenizer has 1000"):
        open_drafter([DrafterSpec("transformers", llama)], vocab_limit=1000)


def test_open_drafter_transformers_without_torch_says_what_to_install(
    llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the import of torch is refused; everything else runs as it is."""
    real: Callable[..., Any] = builtins.__import__

    def without_torch(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.partition(".")[0] == "torch":
            raise ModuleNotFoundError("No module named 'torch'")
        return real(name, *args, **kwargs)

    monkeypatch.delitem(sys.modules, "edge_agent.drafters.transformers", raising=False)
    monkeypatch.setattr(builtins, "__import__", without_torch)
    with pytest.raises(DrafterError, match=r"needs torch and transformers.*No module named 'torch'.*or export"):
        open_drafter([DrafterSpec("transformers", llama)])


def test_open_drafter_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="No drafter was named"):
        open_drafter([])


def test_tokenizer_folder_is_the_model_s(exported: Path, tmp_path: Path) -> None:
    assert tokenizer_folder(exported) == exported
    assert tokenizer_folder(exported / "onnx" / "model.onnx") == exported
    assert tokenizer_folder(tmp_path) is None
