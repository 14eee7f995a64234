"""What students of one target share: the target, the texts, the tokens they can write, the target's distributions."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING

import torch

from edge_agent.tokenizer import ChatTokenizer, TokenizerError
from models.cache import replacing
from models.distill.kernels import faster_bits
from models.distill.material import gather
from models.distill.small_student import small_student
from models.distill.student import cut_student, layer_prefix
from models.distill.student_folder import VOCABULARY, load_vocabulary, save_vocabulary
from models.distill.teacher import Teacher
from models.distill.vocabulary import choose_tokens, find_stand_ins
from models.error import ModelError
from verifier.engine.checkpoint import limits, load_model
from verifier.engine.errors import EngineError

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedModel

    from models.distill.options import Options
    from models.distill.vocabulary import Vocabulary
    from models.progress import Progress


class Workshop:
    """Everything students of a target need, made ready once and kept in a folder.

    Args:
        target: folder of a Hugging Face causal language model.
        digest: checksum of its weights, shortened.
        work: where texts, vocabulary and distributions are kept.
        options: see there.
        progress: told how far each step is.

    Attributes:
        target: as given.
        digest: as given.
        work: as given.
        options: as given.
        progress: as given.
        material: the texts.
        model: the target, for inference.
        vocabulary: the tokens a student can write.
        teacher: the target's distributions over them.
        bits: of the weights that this machine multiplies faster, 4 or 8; a later run in the folder keeps to it.

    Raises:
        ModelError: the target, the data or what an earlier run left cannot be used.
    """

    def __init__(self, target: Path, digest: str, work: Path, options: Options, progress: Progress) -> None:
        self.target = target
        self.digest = digest
        self.work = work
        self.options = options
        self.progress = progress
        if options.threads is not None:
            torch.set_num_threads(options.threads)
        work.mkdir(parents=True, exist_ok=True)
        try:
            self.material = gather(target, ChatTokenizer.load(target), work, options, progress)
            gc.collect()  # the engine's copy of the target
            self.model = load_model(target, dtype=options.dtype, device=options.device, threads=options.threads)
        except (EngineError, TokenizerError) as error:
            raise ModelError(str(error)) from error
        self.vocabulary = self._vocabulary()
        self.teacher = Teacher(
            self.model, self.vocabulary, self.material.training, work / "teacher", prefix=self.material.prefix
        )
        self.bits = self._bits()

    def student(self, layers: tuple[int, ...]) -> PreTrainedModel:
        """Return a float32 student that was not taught yet: cut from the target, or as wide as the options say.

        Raises:
            ModelError: none can be made of this target.
        """
        if self.options.width is None:
            return cut_student(self.model, layers, self.vocabulary)
        return small_student(self.model, len(layers), self.options.width, self.vocabulary)

    def _vocabulary(self) -> Vocabulary:
        path, known = self.work / VOCABULARY, limits(self.model)
        if not path.is_file():
            self.progress("Choosing the student's tokens", 0, None)
            kept = choose_tokens(
                self.material.training,
                vocab_size=known.vocab_size,
                size=self.options.vocabulary,
                always=known.end_tokens,
            )
            embeddings = self.model.get_input_embeddings().weight.float().cpu().numpy()
            save_vocabulary(path, find_stand_ins(embeddings, kept))
        vocabulary = load_vocabulary(path, vocab_size=known.vocab_size)
        if len(vocabulary.kept) != min(self.options.vocabulary, known.vocab_size):
            raise ModelError(
                f"The students of {self.work} can write {len(vocabulary.kept)} tokens, not {self.options.vocabulary}; "
                f"give that number again, or remove {path} and what was trained with it."
            )
        return vocabulary

    def _bits(self) -> int:
        path = self.work / "bits"
        if not path.is_file():
            # The matrices of a student by configuration are as large in one layer as in many.
            model = self.model if self.options.width is None else self.student((0,))
            with replacing(path) as partial:
                partial.write_text(str(faster_bits(*_largest_matrix(model))))
        return 4 if path.read_text() == "4" else 8


def _largest_matrix(model: PreTrainedModel) -> tuple[int, int]:
    prefix = layer_prefix(model)
    matrices = [value.shape for name, value in model.named_parameters() if name.startswith(prefix) and value.dim() == 2]
    rows, columns = max(matrices, key=lambda shape: shape[0] * shape[1])
    return int(rows), int(columns)
