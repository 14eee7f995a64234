"""Students are cut from their target; teacher, loss and training do what they say."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from models.distill.batches import collate
from models.distill.corpus import CHOICE
from models.distill.forward import answer_states, scaled
from models.distill.loss import distillation_loss, token_loss
from models.distill.student import cut_student, spread_layers
from models.distill.student_folder import Shape, check_shape, fix_shape
from models.distill.teacher import Teacher
from models.distill.texts import shared_prefix
from models.distill.train import Recipe, State, Trainer, rate_factor
from models.distill.vocabulary import Vocabulary, find_stand_ins
from models.error import ModelError
from tests.models.distill.targets import random_texts
from tests.models.tiny import SIZES, VOCAB
from verifier.engine.checkpoint import load_model, prepare

if TYPE_CHECKING:
    from transformers import PreTrainedModel

FULL = Path("/dev/full")
WHOLE = Vocabulary(np.arange(VOCAB), np.arange(VOCAB))
PART = find_stand_ins(
    np.random.default_rng(0).normal(size=(VOCAB, 8)).astype(np.float32), np.asarray([*range(5, 200), 256])
)


@pytest.fixture(scope="module")
def target(architecture_folder: Path) -> PreTrainedModel:
    """A tiny target of each architecture."""
    return load_model(architecture_folder, dtype="float32", device="cpu", threads=None)


@pytest.fixture(scope="module", params=["granite", "cohere", "gemma2"])
def scaling(request: pytest.FixtureRequest) -> PreTrainedModel:
    """A tiny target that does not leave its logits as its head yields them."""
    own = {
        "granite": {"logits_scaling": 8.0},
        "cohere": {"logit_scale": 0.0625, "use_qk_norm": False},
        "gemma2": {"final_logit_softcapping": 0.5, "head_dim": 16, "sliding_window": 64},
    }
    config = AutoConfig.for_model(
        request.param,
        **SIZES,
        num_hidden_layers=2,
        **own[request.param],
    )
    torch.manual_seed(0)
    return prepare(AutoModelForCausalLM.from_config(config, dtype=torch.float32), "cpu")


def trainer_of(target: PreTrainedModel, folder: Path, recipe: Recipe, vocabulary: Vocabulary = PART) -> Trainer:
    texts = random_texts(24)
    prefix = shared_prefix(texts)
    torch.manual_seed(0)
    teacher = Teacher(target, vocabulary, texts, folder / "teacher", prefix=prefix)
    student = cut_student(target, [0], vocabulary)
    return Trainer(student, vocabulary, teacher, texts, recipe, prefix=prefix)


def test_student_of_all_layers_and_tokens_is_the_target(target: PreTrainedModel) -> None:
    student = cut_student(target, range(target.config.num_hidden_layers), WHOLE)
    ids = torch.arange(20)[None]
    torch.testing.assert_close(student(ids).logits, target(ids).logits)


def test_student_writes_the_kept_rows(target: PreTrainedModel) -> None:
    student = cut_student(target, range(target.config.num_hidden_layers), PART)
    ids = torch.tensor([[7, 9, 30, 199]])
    expected = target(ids).logits[..., torch.from_numpy(PART.kept)]
    torch.testing.assert_close(student(torch.from_numpy(PART.inward)[ids]).logits, expected)


def test_student_of_some_layers_has_their_weights(target: PreTrainedModel) -> None:
    last = target.config.num_hidden_layers - 1
    student = cut_student(target, [last], PART)
    mine, theirs = student.model.layers, target.model.layers
    assert len(mine) == 1
    for name, value in mine[0].named_parameters():
        assert torch.equal(value, theirs[last].get_parameter(name))


@pytest.mark.parametrize("layers", [[], [0, 0], [1, 0], [-1], [9]])
def test_layers_that_are_not_the_target_s_are_refused(target: PreTrainedModel, layers: list[int]) -> None:
    with pytest.raises(ModelError, match="are not some of the target's"):
        cut_student(target, layers, PART)


def test_vocabulary_of_another_target_is_refused(target: PreTrainedModel) -> None:
    with pytest.raises(ModelError, match="made for 10 tokens, but the target has 320"):
        cut_student(target, [0], Vocabulary(np.arange(5), np.zeros(10, np.int64)))


@pytest.mark.parametrize(("total", "count"), [(30, 9), (30, 2), (4, 4), (2, 1), (12, 5)])
def test_spread_layers_are_ascending_and_end_with_the_last(total: int, count: int) -> None:
    layers = spread_layers(total, count)
    assert layers == sorted(set(layers))
    assert len(layers) == count
    assert layers[0] == 0
    assert count == 1 or layers[-1] == total - 1


def test_common_beginning_changes_nothing(target: PreTrainedModel) -> None:
    texts = random_texts(6)
    with torch.no_grad():
        torch.testing.assert_close(
            answer_states(target, collate(texts, 3)), answer_states(target, collate(texts, 0)), atol=1e-5, rtol=1e-4
        )


@torch.no_grad()
def test_logits_are_scaled_as_the_model_does_it(scaling: PreTrainedModel) -> None:
    ids = torch.arange(20)[None]
    bare = scaling.get_output_embeddings()(scaling.base_model(ids).last_hidden_state)
    expected = scaling(ids).logits
    assert not torch.allclose(bare, expected, atol=0.01)
    torch.testing.assert_close(scaled(bare, scaling), expected)


@torch.no_grad()
def test_teacher_and_student_have_the_chances_of_a_target_that_scales(scaling: PreTrainedModel, tmp_path: Path) -> None:
    (text,) = random_texts(1)
    ids = torch.from_numpy(text.ids[None].astype(np.int64))
    expected = scaling(ids).logits[0, text.prompt - 1 : -1]
    rows, chances = Teacher(scaling, WHOLE, [text], tmp_path, prefix=0).look_up([0])
    torch.testing.assert_close(chances, torch.log_softmax(expected, -1).gather(1, rows), atol=0.01, rtol=0.001)
    student = cut_student(scaling, [0, 1], WHOLE)
    trainer = Trainer(student, WHOLE, Teacher(scaling, WHOLE, [text], tmp_path, prefix=0), [text], Recipe(1), prefix=0)
    torch.testing.assert_close(trainer._logits(trainer.read(collate([text], 0))), expected)


def test_teacher_keeps_what_it_computed(target: PreTrainedModel, tmp_path: Path) -> None:
    texts = random_texts(6)
    teacher = Teacher(target, PART, texts, tmp_path, prefix=3)
    rows, chances = teacher.look_up([4, 1])
    assert teacher.computed == 2
    with torch.no_grad():
        text = texts[4]
        logits = target(torch.from_numpy(text.ids[None].astype(np.int64))).logits[0, text.prompt - 1 : -1]
    expected = torch.log_softmax(logits[:, torch.from_numpy(PART.kept)], dim=-1)
    count = len(text.answer)
    torch.testing.assert_close(expected.gather(1, rows[:count]), chances[:count], atol=2e-3, rtol=2e-3)
    assert torch.equal(rows[:count, 0], expected.argmax(-1))
    again = Teacher(target, PART, texts, tmp_path, prefix=3)
    assert again.computed == 2
    assert torch.equal(again.look_up([4, 1])[0], rows)
    turned = [texts[4], *texts[1:4], texts[0], texts[5]]  # as many positions, of other texts
    assert Teacher(target, PART, turned, tmp_path, prefix=3).computed == 0


@pytest.mark.parametrize("name", ["rows", "chances", "done"])
def test_teacher_computes_all_anew_where_a_file_is_damaged(tmp_path: Path, llama: Path, name: str) -> None:
    model = load_model(llama, dtype="float32", device="cpu", threads=None)
    texts = random_texts(6)
    rows, _ = Teacher(model, PART, texts, tmp_path, prefix=3).look_up([4, 1])
    path = tmp_path / f"{name}.npy"
    path.write_bytes(path.read_bytes()[:-1])
    again = Teacher(model, PART, texts, tmp_path, prefix=3)
    assert again.computed == 0
    assert torch.equal(again.look_up([4, 1])[0], rows)


def test_loss_is_the_cross_entropy_against_token_and_distribution() -> None:
    torch.manual_seed(0)
    logits, chances = torch.randn(3, 6), torch.randn(3, 2)
    rows, wanted = torch.tensor([[0, 1], [2, 3], [4, 5]]), torch.tensor([1, -1, 5])
    log = torch.log_softmax(logits, dim=-1)
    soft = -(torch.softmax(chances, dim=-1) * log.gather(1, rows)).sum(-1)
    hard = -log[torch.arange(3), wanted.clamp(min=0)]
    expected = (0.75 * soft[0] + 0.25 * hard[0] + soft[1] + 0.75 * soft[2] + 0.25 * hard[2]) / 3
    torch.testing.assert_close(distillation_loss(logits, wanted, rows, chances, token_share=0.25), expected)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_training_learns_its_texts(target: PreTrainedModel, tmp_path: Path, dtype: str) -> None:
    recipe = Recipe(tokens=4000, batch=256, rate=3e-3, warm_up=5, tokens_first=0, dtype=dtype)
    trainer = trainer_of(target, tmp_path, recipe)
    before = distilled_loss(trainer)
    trainer.run(lambda trainer, done: None)
    trainer.finish()
    assert distilled_loss(trainer) < 0.7 * before


def test_training_begins_with_the_tokens_alone(target: PreTrainedModel, tmp_path: Path) -> None:
    trainer = trainer_of(target, tmp_path, Recipe(tokens=4000, batch=256, rate=3e-3, warm_up=5, tokens_first=0.6))
    texts = random_texts(24)
    before = np.mean(np.concatenate(trainer.agreement(texts, prefix=3)))
    asked = []
    trainer.run(lambda trainer, done: asked.append((done, trainer.teacher.computed)))
    assert all((count == 0) == (done < 0.6) for done, count in asked[:-1] if not 0.5 < done < 0.7)
    trainer.finish()
    assert np.mean(np.concatenate(trainer.agreement(texts, prefix=3))) > before + 0.2


def test_loss_on_tokens_leaves_out_those_that_cannot_be_written() -> None:
    logits, wanted = torch.randn(3, 7), torch.tensor([2, -1, 5])
    expected = -torch.log_softmax(logits, -1)[[0, 2], [2, 5]].mean()
    torch.testing.assert_close(token_loss(logits, wanted), expected)
    assert token_loss(logits, torch.tensor([-1, -1, -1])) == 0


def distilled_loss(trainer: Trainer) -> float:
    """The loss on all texts of `trainer_of`."""
    texts = random_texts(24)
    batch = trainer.read(collate(texts, 3))
    with torch.no_grad():
        logits = trainer.student.get_output_embeddings()(answer_states(trainer.student, batch))
        rows, chances = trainer.teacher.look_up(range(24))
        return float(distillation_loss(logits, batch.wanted, rows, chances, token_share=0.3))


def test_a_killed_training_goes_on_as_if_nothing_had_been(target: PreTrainedModel, tmp_path: Path) -> None:
    recipe = Recipe(tokens=4000, batch=256, warm_up=3, bits=4)  # the kill comes before weights are used rounded
    straight = trainer_of(target, tmp_path / "a", recipe)
    straight.run(lambda trainer, done: None)
    killed = trainer_of(target, tmp_path / "b", recipe)

    def kill(trainer: Trainer, done: float) -> None:
        if trainer.state.step == 11:
            trainer.save(tmp_path / "checkpoint.pt")
        if trainer.state.step == 13:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        killed.run(kill)
    resumed = trainer_of(target, tmp_path / "b", recipe)
    resumed.resume(tmp_path / "checkpoint.pt")
    assert resumed.state.step == 11
    resumed.run(lambda trainer, done: None)
    assert resumed.state.step == straight.state.step
    assert resumed.state.tokens == straight.state.tokens
    for trainer in (straight, resumed):
        trainer.finish()
    for mine, theirs in zip(resumed.student.parameters(), straight.student.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs)


def test_checkpoint_of_another_student_is_refused(target: PreTrainedModel, tmp_path: Path) -> None:
    recipe = Recipe(tokens=400, batch=256)
    trainer_of(target, tmp_path, recipe).save(tmp_path / "checkpoint.pt")
    with pytest.raises(ModelError, match="cannot be used"):
        trainer_of(target, tmp_path / "other", recipe, WHOLE).resume(tmp_path / "checkpoint.pt")
    (tmp_path / "checkpoint.pt").write_bytes(b"half")
    with pytest.raises(ModelError, match="cannot be used"):
        trainer_of(target, tmp_path, recipe).resume(tmp_path / "checkpoint.pt")


@pytest.mark.skipif(not FULL.exists(), reason="no device that is always full")
def test_checkpoint_on_a_full_disk_leaves_the_old_one(llama: Path, tmp_path: Path) -> None:
    model = load_model(llama, dtype="float32", device="cpu", threads=None)
    trainer = trainer_of(model, tmp_path, Recipe(tokens=400, batch=256))
    trainer.save(tmp_path / "checkpoint.pt")
    (tmp_path / "checkpoint.partial").symlink_to(FULL)
    with pytest.raises(OSError, match="No space left"):
        trainer.save(tmp_path / "checkpoint.pt")
    trainer.resume(tmp_path / "checkpoint.pt")


def test_rate_rises_stays_and_falls() -> None:
    recipe = Recipe(tokens=1, warm_up=10, decay=0.25)
    assert rate_factor(0, 0.0, recipe) == pytest.approx(0.1)
    assert rate_factor(50, 0.5, recipe) == 1.0
    assert rate_factor(50, 0.875, recipe) == pytest.approx(0.5)
    assert rate_factor(50, 1.0, recipe) == 0.0


def test_a_fresh_state_has_done_nothing() -> None:
    assert State().tokens == 0


def test_shape_may_not_change(tmp_path: Path) -> None:
    shape = Shape("abc", (0, 1), 10, 0)
    fix_shape(tmp_path, shape)
    fix_shape(tmp_path, shape)
    with pytest.raises(ModelError, match=r"begun with layers \(0, 1\), not \(0,\)"):
        fix_shape(tmp_path, Shape("abc", (0,), 10, 0))


def test_a_training_of_a_release_that_held_out_other_texts_is_refused(tmp_path: Path) -> None:
    (tmp_path / "shape.json").write_text('{"target":"abc","layers":[0,1],"tokens":10,"seed":0}')
    with pytest.raises(ModelError, match=r"begun by another release, which held out other texts.*but texts\.jsonl"):
        check_shape(tmp_path, Shape("abc", (0, 1), 10, 0, CHOICE))
