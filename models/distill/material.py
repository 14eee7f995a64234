"""What a student is taught with and judged by: answers read or written, and some of them held out."""

from __future__ import annotations

import time
from itertools import islice
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from models.distill.answers import LONGEST_ANSWER, Start, ids_of, texts_of, think_up_prompts, write
from models.distill.corpus import Corpus, split
from models.distill.measure import DRAFT
from models.distill.student_folder import VOCABULARY
from models.distill.texts import Text, fingerprint, overlap, read_answers, read_prompts, shared_prefix
from models.error import ModelError
from models.progress import WARNING
from schemas.messages import GREEDY
from verifier.engine.load import load_engine
from verifier.engine.segment import Segment

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from edge_agent.tokenizer import ChatTokenizer
    from models.distill.options import Options
    from models.distill.texts import Ids, Prompt
    from models.progress import Progress
    from verifier.engine.engine import Engine

EVALUATED = 128
"""Tokens of a held-out answer that count."""

WRITING = 0.4
"""Share of the minutes for writing answers, where none are given."""

_KV_BYTES = 2 << 30
_TIMING = b"\0timing\0"


class Material(msgspec.Struct, frozen=True):
    """Texts for a student.

    Attributes:
        training: to train on.
        held_out: not trained on, to judge it while it trains; cut to `EVALUATED` answer tokens.
        evaluation: to judge the drafter by in the end; those held out where no file of prompts was given.
        verify_ms: the target's time for a step of one session with a draft of `DRAFT` tokens, in milliseconds.
        alone_ms: the same without a draft.
        warnings: what should be known about them.
    """

    training: list[Text]
    held_out: list[Text]
    evaluation: list[Text]
    verify_ms: float
    alone_ms: float
    warnings: list[str]

    @property
    def prefix(self) -> int:
        """Leading ids that all texts share."""
        return shared_prefix([*self.training, *self.held_out])


def gather(target: Path, tokenizer: ChatTokenizer, work: Path, options: Options, progress: Progress) -> Material:
    """Read or write the texts; what is written is kept in `work` and not written again.

    Raises:
        ModelError: the data cannot be used; the message says why.
        EngineError: the target cannot be loaded.
    """
    progress("Loading the target", 0, None)
    engine = load_engine(
        target, dtype=options.dtype, device=options.device, kv_budget_bytes=_KV_BYTES, threads=options.threads
    )
    return Gathering(engine, target, tokenizer, work, options, progress).run()


def worth_training(texts: Sequence[Text], *, longest_prompt: int) -> list[Text]:
    """Leave out texts that cost much and teach little: long prompts, and short answers to middling ones.

    Prompt tokens cost as much as answer tokens, and only the latter teach.
    """
    prefix = shared_prefix(texts)
    return [
        text
        for text in texts
        if text.prompt <= longest_prompt and 2 * len(text.answer) >= min(text.prompt, longest_prompt) - prefix
    ] or list(texts)


class Gathering:
    """One run of `gather`."""

    def __init__(
        self,
        engine: Engine,
        target: Path,
        tokenizer: ChatTokenizer,
        work: Path,
        options: Options,
        progress: Progress,
    ) -> None:
        self._engine = engine
        self._target = target
        self._tokenizer = tokenizer
        self._work = work
        self._options = options
        self._progress = progress

    def run(self) -> Material:
        """Do it."""
        verify_ms, alone_ms = (_time_step(self._engine, fed) for fed in (DRAFT + 1, 1))
        banned, warnings = self._banned()
        judged = self._judged_starts()
        texts = self._written(banned, judged) if self._options.answers is None else self._read(banned)
        texts, more = self._unseen(texts, judged)
        training, held_out = split(texts, seed=self._options.seed)
        held_out = [Text(text.ids[: text.prompt + EVALUATED], text.prompt, text.source) for text in held_out]
        return Material(
            training=worth_training(training, longest_prompt=self._options.longest_prompt),
            held_out=held_out,
            evaluation=self._evaluation(judged) or held_out,
            verify_ms=verify_ms,
            alone_ms=alone_ms,
            warnings=warnings + more,
        )

    def _banned(self) -> tuple[set[int | str], list[str]]:
        """Return the ids of the training prompts that are evaluation prompts too, and what to say about them."""
        options = self._options
        if options.prompts is None or options.evaluation is None:
            return set(), []
        training, evaluation = read_prompts(options.prompts), read_prompts(options.evaluation)
        banned = overlap(training, evaluation)
        if len(banned) == len(training):
            raise ModelError(
                f"All {len(training)} prompts of {options.prompts} are in {options.evaluation} too; a drafter cannot "
                "be judged by what it was trained on. Give other prompts for one of the two."
            )
        if not banned:
            return banned, []
        warning = (
            f"{len(banned)} of the {len(training)} training prompts are among the {len(evaluation)} evaluation "
            "prompts; they were left out of the training."
        )
        self._warn(warning)
        return banned, [warning]

    def _judged_starts(self) -> dict[bytes, Start]:
        """Return the evaluation prompts by their ids."""
        if self._options.evaluation is None:
            return {}
        prompts = read_prompts(self._options.evaluation)
        starts = (self._start(prompt, EVALUATED) for prompt in prompts)
        return {_ids(start).tobytes(): start for start in starts}

    def _unseen(self, texts: list[Text], judged: Mapping[bytes, Start]) -> tuple[list[Text], list[str]]:
        """Leave out answers to evaluation prompts that an earlier run, which did not know them as such, has written."""
        said = self._said(judged)
        unseen = [text for text in texts if not said or self._words(text.ids[: text.prompt]) not in said]
        if not unseen:
            raise ModelError(
                f"All {len(texts)} texts in {self._work} are answers to prompts of {self._options.evaluation}; a "
                "drafter cannot be judged by what it was trained on. Remove the folder, or give other prompts."
            )
        if len(unseen) == len(texts):
            return texts, []
        warning = (
            f"{len(texts) - len(unseen)} of the {len(texts)} training texts were answers to evaluation prompts and are "
            f"left out from now on; a student that was begun before has seen them. Remove {self._work} to start anew."
        )
        self._warn(warning)
        return unseen, [warning]

    def _said(self, judged: Mapping[bytes, Start]) -> set[bytes]:
        """Return the words of the evaluation prompts, whatever their blanks and case."""
        return {self._words(start.tokens) for start in judged.values()}

    def _words(self, prompt: Iterable[int]) -> bytes:
        return fingerprint(self._tokenizer.decode([int(token) for token in prompt]))

    def _warn(self, warning: str) -> None:
        """Say it now: the report, which says it too, comes when the hours of work are over."""
        self._progress(f"{WARNING}{warning}", 0, None)

    def _evaluation(self, judged: Mapping[bytes, Start]) -> list[Text]:
        """Let the target answer the evaluation prompts."""
        if not judged:
            return []
        corpus = Corpus(self._work / "evaluation.jsonl")
        known = _prompts_of(corpus.texts)
        missing = [start for ids, start in judged.items() if ids not in known]
        for done, (start, written) in enumerate(write(self._engine, missing, batch=self._options.batch)):
            self._progress("Answering the evaluation prompts", done, len(missing))
            corpus.add([_text(start, written)])
        answered = [text for text in corpus.texts if _prompt_of(text) in judged]
        if not answered:
            raise self._too_long(self._options.evaluation)
        return answered

    def _read(self, banned: set[int | str]) -> list[Text]:
        from tokenizers import Tokenizer  # noqa: PLC0415 - comes with transformers

        options = self._options
        if options.prompts is None or options.answers is None:
            raise ModelError("Answers were given without the prompts they belong to; give the file of prompts too.")
        self._progress("Reading the answers", 0, None)
        texts = texts_of(
            [prompt for prompt in read_prompts(options.prompts) if prompt.id not in banned],
            read_answers(options.answers),
            self._tokenizer,
            Tokenizer.from_file(str(self._target / "tokenizer.json")),
            end_token=self._end_token(),
            vocab_size=self._engine.vocab_size,
        )
        longest = min(self._engine.context_length, options.context)
        fitting = [text for text in texts if len(text.ids) <= longest]
        if not fitting:
            raise ModelError(
                f"Each of the {len(texts)} answers is, with its prompt, longer than the {longest} tokens that drafter "
                "and target can read; give shorter ones, or a larger --context if the target's is larger."
            )
        return fitting

    def _end_token(self) -> int | None:
        """Return what the target ends an answer with, most likely: of several ids, the one its tokenizer names."""
        known, ends = self._tokenizer.end_token, self._engine.end_tokens
        return known if known in ends else min(ends, default=None)

    def _written(self, banned: set[int | str], judged: Mapping[bytes, Start]) -> list[Text]:
        """Let the target write until there are enough texts, or its share of the time is over."""
        options, corpus = self._options, Corpus(self._work / "texts.jsonl")
        seconds = 60 * options.minutes * WRITING if options.minutes else None
        wanted = max(0, options.texts - len(corpus.texts))
        if seconds is not None and (self._work / VOCABULARY).is_file():
            # An earlier run has used up that time, and chosen the student's tokens by what it wrote.
            self._progress(f"Taking the {len(corpus.texts)} answers that are written already", 0, None)
            return corpus.texts
        starts: Iterable[Start]
        if options.prompts is None:
            total, starts = options.texts, self._thought_up(corpus, judged)
        else:
            starts = self._asked(options.prompts, corpus, banned)
            total = min(options.texts, len(corpus.texts) + len(starts))
        started = time.monotonic()

        def stop() -> bool:
            spent = time.monotonic() - started
            if seconds is None:
                self._progress("Writing answers", len(corpus.texts), total)
                return False
            self._progress("Writing answers", round(min(spent, seconds)), round(seconds))
            return spent > seconds

        stop()  # thinking up the first prompts takes a while
        for start, written in write(self._engine, islice(starts, wanted), batch=options.batch, stop=stop):
            corpus.add([_text(start, written)])
        if not corpus.texts:
            raise self._too_long(options.prompts)
        return corpus.texts

    def _too_long(self, prompts: Path | None) -> ModelError:
        return ModelError(
            f"Each prompt of {prompts} fills the target's context of {self._engine.context_length} tokens and leaves "
            "no room for an answer; give shorter ones."
        )

    def _thought_up(self, corpus: Corpus, judged: Mapping[bytes, Start]) -> Iterator[Start]:
        """Yield prompts of the target's own, without end."""
        options, said = self._options, self._said(judged)
        seed = options.seed + len(corpus.texts)  # an interrupted run does not think up the same prompts again
        for ids in think_up_prompts(self._engine, self._tokenizer, seed=seed, batch=options.batch):
            if not said or self._words(ids) not in said:
                yield Start(ids, LONGEST_ANSWER)

    def _asked(self, path: Path, corpus: Corpus, banned: set[int | str]) -> list[Start]:
        """Return the prompts of a file that have no answer yet."""
        known = _prompts_of(corpus.texts)
        starts = [self._start(prompt, LONGEST_ANSWER) for prompt in read_prompts(path) if prompt.id not in banned]
        return [start for start in starts if _ids(start).tobytes() not in known]

    def _start(self, prompt: Prompt, limit: int) -> Start:
        return Start(tuple(ids_of(prompt, self._tokenizer)), limit, GREEDY, prompt.source)


def _prompt_of(text: Text) -> bytes:
    return text.ids[: text.prompt].tobytes()


def _prompts_of(texts: Sequence[Text]) -> set[bytes]:
    return {_prompt_of(text) for text in texts}


def _ids(start: Start) -> Ids:
    return np.asarray(start.tokens, np.int32)


def _text(start: Start, written: list[int]) -> Text:
    return Text(np.asarray([*start.tokens, *written], np.int32), len(start.tokens), start.source)


def _time_step(engine: Engine, fed: int) -> float:
    """Return the target's median time for a step of one session that is fed so many tokens, in milliseconds."""
    tokens = [next(iter(engine.end_tokens), 0)] * 40
    times = []
    for _ in range(7):
        started = time.perf_counter()
        engine.step([Segment(_TIMING, tokens, fed)])
        times.append(time.perf_counter() - started)
    engine.release(_TIMING)
    return sorted(times[1:])[len(times[1:]) // 2] * 1e3
