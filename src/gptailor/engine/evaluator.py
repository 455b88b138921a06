"""Score jobs on tasks with the engine: one number an example and metric.

Batches depend on the tasks and the number of examples alone, never on the candidates. Going from n
to 3n examples runs only the 2n new ones. Batches never cross a rung, so a candidate's scores are
the same to the bit whichever rungs it was scored on before.
"""

import itertools
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gptailor.core.tailoring import BASE, Tailoring
from gptailor.core.trial import Evaluation, Job, Measurement, Scores
from gptailor.engine.batches import Batch, pieces
from gptailor.engine.engine import Engine
from gptailor.engine.generate import count_generation, generate
from gptailor.engine.head import Targets
from gptailor.engine.selfcheck import refuse_inexact
from gptailor.engine.walk import Result, Work
from gptailor.tasks.divergence import Teacher
from gptailor.tasks.task import Outcome, Passage, Prompt, Task

__all__ = ["Evaluator"]

# (task, example) -> index of a passage or prompt -> index of a continuation -> what came of it
_Found = dict[tuple[str, int], dict[int, dict[int, Outcome]]]
_DIGITS = 6  # decimals of a score: a record reads back equal


@dataclass(frozen=True, slots=True, eq=False)
class _Chunk:
    """Some examples of each task, packed; or prompts that are written after."""

    owners: tuple[tuple[str, int, int], ...]  # passage or prompt -> (task, example, index there)
    batches: tuple[Batch, ...] = ()
    teachers: tuple[Teacher, ...] | None = None
    prompts: tuple[Prompt, ...] = ()
    choices: tuple[tuple[int, ...], ...] = ()  # passage -> its continuations' indices in the task's


class Evaluator:
    """Score candidates on tasks.

    Args:
        engine: Runs the models.
        tasks: Split (``search``, ``selection``, ``test``) to the tasks with that split's examples.
        rungs: Numbers of examples on which the search scores; batches never cross them.
        teachers: Task to the member from whose predictions its divergence is measured.
    """

    def __init__(
        self,
        engine: Engine,
        tasks: Mapping[str, Sequence[Task]],
        *,
        rungs: Sequence[int] = (),
        teachers: Mapping[str, str] | None = None,
    ) -> None:
        self.engine = engine
        self.tasks = {split: {task.name: task for task in given} for split, given in tasks.items()}
        self._rungs = tuple(sorted(rungs))
        self._teachers = dict(teachers or {})
        self._chunks: dict[tuple[str, int, int], tuple[_Chunk, ...]] = {}

    def evaluate(self, jobs: Sequence[Job]) -> list[Evaluation]:
        """Score every job; those on the same examples are run together.

        Returns:
            One evaluation a job, in order.

        Raises:
            FamilyError: At the first call, the engine differs from the family's own forward.
        """
        refuse_inexact(self.engine)
        done: dict[int, Evaluation] = {}
        for (split, known, n_examples), members in _grouped(jobs).items():
            group = [jobs[index] for index in members]
            evaluations = self._evaluate_group(split, known, n_examples, group)
            done |= dict(zip(members, evaluations, strict=True))
        return [done[index] for index in range(len(jobs))]

    def count(self, jobs: Sequence[Job]) -> Work:
        """Count what `evaluate` would run at most, without running a candidate.

        Every written answer counts as if it were as long as it may be.
        """
        total = Work()
        for examples, members in _grouped(jobs).items():
            tailorings = [jobs[index].tailoring for index in members]
            for chunk in self._chunks_between(*examples):
                total += self.engine.count(tailorings, chunk.batches)
                total += count_generation(self.engine, tailorings, chunk.prompts)
        return total

    def tokens(self, split: str, known: int, n_examples: int) -> int:
        """Tokens that one candidate runs through each of its layers at most, padding counted."""
        chunks = self._chunks_between(split, known, n_examples)
        base = Tailoring.whole(BASE, 1)
        return sum(
            sum(batch.n_tokens for batch in chunk.batches)
            + count_generation(self.engine, [base], chunk.prompts).layer_tokens
            for chunk in chunks
        )

    def _evaluate_group(
        self, split: str, known: int, n_examples: int, jobs: Sequence[Job]
    ) -> list[Evaluation]:
        started, before = time.perf_counter(), self.engine.stream_layer_tokens
        outcomes: list[_Found] = [{} for _ in jobs]
        parts: list[list[Result]] = [[] for _ in jobs]
        tailorings = [job.tailoring for job in jobs]
        for chunk in self._chunks_between(split, known, n_examples):
            if chunk.prompts:
                self._write(chunk, tailorings, parts, outcomes)
                continue
            results = self.engine.run(tailorings, chunk.batches, chunk.teachers)
            for part, result, found in zip(parts, results, outcomes, strict=True):
                part.append(result)
                if result.targets is not None:
                    _collect(chunk, result.targets, found)
        joined = [Result.joined(part) for part in parts]
        scores = [
            self._scores(split, job, found) if result.failure is None else None
            for job, found, result in zip(jobs, outcomes, joined, strict=True)
        ]
        seconds = (time.perf_counter() - started) / len(jobs)
        share = (self.engine.stream_layer_tokens - before) / len(jobs)  # of layers fitted for them
        return [
            Evaluation(score, result.failure, seconds, round(result.layer_tokens + share))
            for score, result in zip(scores, joined, strict=True)
        ]

    def _write(
        self,
        chunk: _Chunk,
        tailorings: Sequence[Tailoring],
        parts: Sequence[list[Result]],
        outcomes: Sequence[_Found],
    ) -> None:
        """Let each candidate answer the prompts, unless it failed before."""
        for tailoring, part, found in zip(tailorings, parts, outcomes, strict=True):
            if any(result.failure is not None for result in part):
                continue
            written = generate(self.engine, tailoring, chunk.prompts)
            targets = None if written.failure is not None else ()
            part.append(Result(targets, written.failure, written.layer_tokens))
            if written.answers is None:
                continue
            for (task, example, index), answer in zip(chunk.owners, written.answers, strict=True):
                outcome = Outcome(
                    0.0, True, len(answer.tokens), text=answer.text, written=answer.tokens
                )
                found.setdefault((task, example), {})[index] = {0: outcome}

    def _scores(self, split: str, job: Job, outcomes: _Found) -> Scores:
        """Append the new examples' numbers to the known ones."""
        scored: dict[str, dict[str, Measurement]] = {}
        for name, task in self.tasks[split].items():
            known = {} if job.known is None else job.known.tasks[name]
            values = {metric: list(measured.values) for metric, measured in known.items()}
            n_known = max((len(numbers) for numbers in values.values()), default=0)
            total = min(job.n_examples, task.n_examples)
            for example in range(n_known, total):
                found = outcomes.get((name, example), {})  # none for an empty text
                measured_now = task.measure(
                    example, [[row[n] for n in sorted(row)] for _, row in sorted(found.items())]
                )
                for metric, number in measured_now.items():
                    values.setdefault(metric, []).append(round(float(number), _DIGITS))
            scored[name] = {
                metric: Measurement(metric, tuple(numbers), task.weights(metric, total))
                for metric, numbers in values.items()
            }
        return Scores(scored)

    def _chunks_between(self, split: str, known: int, n_examples: int) -> list[_Chunk]:
        """The examples from `known` to `n_examples`, packed; in searches chunks end at rungs."""
        rungs = self._rungs if split == "search" else ()  # other splits are scored whole
        edges = [known, *(rung for rung in rungs if known < rung < n_examples), n_examples]
        chunks: list[_Chunk] = []
        for low, high in itertools.pairwise(edges):
            key = (split, low, high)
            if key not in self._chunks:
                self._chunks[key] = self._make_chunks(*key)
            chunks += self._chunks[key]
        return chunks

    def _make_chunks(self, split: str, low: int, high: int) -> tuple[_Chunk, ...]:
        """Batch the examples from `low` to `high`; tasks with the same teacher share batches."""
        owned: dict[str | None, list[tuple[tuple[str, int, int], tuple[int, ...], Passage]]] = {}
        asked: dict[tuple[str, int, int], Prompt] = {}
        for name, task in self.tasks[split].items():
            for example in range(min(low, task.n_examples), min(high, task.n_examples)):
                for index, passage in enumerate(task.passages(example)):
                    owned.setdefault(self._teachers.get(name), []).extend(
                        ((name, example, index), numbers, piece)
                        for numbers, piece in pieces(passage, self.engine.rotary_bounds)
                    )
                prompt = task.examples[example].prompt
                if prompt is not None:
                    asked[name, example, len(task.passages(example))] = prompt
        chunks = []
        for teacher, pairs in owned.items():
            owners, choices, passages = zip(*pairs, strict=True)
            batches = self.engine.pack(passages)
            taught = None
            if teacher is not None:
                whole = Tailoring.whole(teacher, self.engine.family.n_layers)
                taught = tuple(self.engine.teach(whole, batches))
            chunks.append(_Chunk(owners, batches, taught, choices=choices))
        if asked:
            chunks.append(_Chunk(tuple(asked), prompts=tuple(asked.values())))
        return tuple(chunks)


def _grouped(jobs: Sequence[Job]) -> dict[tuple[str, int, int], list[int]]:
    """Indices of jobs that run the same examples, by (split, examples known, examples wanted)."""
    groups: dict[tuple[str, int, int], list[int]] = {}
    for index, job in enumerate(jobs):
        groups.setdefault((job.split, job.n_known, job.n_examples), []).append(index)
    return groups


def _collect(
    chunk: _Chunk,
    targets: Sequence[Targets],
    outcomes: _Found,
) -> None:
    """Sum the targets of each continuation and store them by task and example."""
    for batch, found in zip(chunk.batches, targets, strict=True):
        n = len(batch.spans)
        logprobs = _sums(found.logprob.double(), batch)
        misses = _sums((~found.greedy).long(), batch)
        counts = torch.bincount(batch.target_span, minlength=n).tolist()
        apart: list[float] | list[None] = [None] * n
        if found.divergence is not None:
            apart = _sums(found.divergence.double(), batch)
        flips, nats = _by_token(found, counts)
        for span, (passage, number) in enumerate(batch.spans):
            given = batch.numbers[passage]
            task, example, index = chunk.owners[given]
            outcome = Outcome(
                logprobs[span],
                misses[span] == 0,
                counts[span],
                apart[span],
                flips=flips[span],
                divergences=nats[span],
            )
            row = outcomes.setdefault((task, example), {}).setdefault(index, {})
            row[chunk.choices[given][number]] = outcome


def _by_token(
    found: Targets, counts: list[int]
) -> tuple[list[tuple[bool, ...]], list[tuple[float, ...]]]:
    """Of each continuation, whether its tokens are not the likeliest, and their divergences."""
    if found.divergence is None:
        return [()] * len(counts), [()] * len(counts)
    flips = torch.split(~found.greedy, counts)
    nats = torch.split(found.divergence, counts)
    return [tuple(each.tolist()) for each in flips], [tuple(each.tolist()) for each in nats]


def _sums(values: Tensor, batch: Batch) -> list[float]:
    """Sums over the targets of each continuation."""
    sums = torch.zeros(len(batch.spans), dtype=values.dtype)
    return sums.index_add_(0, batch.target_span, values).tolist()
