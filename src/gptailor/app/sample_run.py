"""Let base, best member, the base without its last layers and the result write the same texts.

All of them are measured on the run's test split, too, so that they can be read side by side.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from gptailor.app.greedy_tasks import new_tokens, prompt_tokens
from gptailor.app.measure_models import open_result
from gptailor.app.sample_prompts import N_SHOWN, PROMPTS
from gptailor.core.score_table import best_member
from gptailor.core.specs import GENERATION
from gptailor.core.statistics import RESULT
from gptailor.core.tailoring import BASE, Tailoring
from gptailor.core.trial import Job, Scores
from gptailor.engine import Engine, Evaluator
from gptailor.engine.generate import generate
from gptailor.engine.own_texts import own_texts
from gptailor.errors import TailoringError, UserError
from gptailor.family import Family
from gptailor.record.entries import WrittenEntry
from gptailor.record.evaluation_file import SampledModel, SamplesFile
from gptailor.record.run_record import RunRecord, read_run
from gptailor.searchers.space import Space
from gptailor.study.plan import roughly
from gptailor.tasks.greedy_text import continued_task, own_text_task
from gptailor.tasks.openers import GUARD_OPENERS
from gptailor.tasks.task import Prompt

__all__ = ["LAST_N", "sample"]

LAST_N = "last_n"


def sample(
    run: Path,
    *,
    config: Path | None = None,
    on_message: Callable[[str], None] = lambda _: None,
) -> RunRecord:
    """Write ``samples.json`` beside a run's record, and return the record with it.

    Args:
        run: The folder of a run that has ended.
        config: The tailor.yaml, where it names a metric of your own.
        on_message: Called with a sentence before what takes long.

    Raises:
        UserError: The run has no result, its members or tasks are not those it was begun with, or
            a model can't write.
    """
    record, result, settings, evaluator = open_result(run, config, "sample", on_message)
    family, scores = evaluator.engine.family, record.test_scores
    metrics = {goal.task: goal.metric for goal in record.goals}
    members = {name: scores[name] for name in family.members if name in scores}
    best = best_member(members, metrics) or BASE
    wholes = {name: Tailoring.whole(name, family.n_layers) for name in (BASE, best)}
    n_removed = family.n_layers - len(result.layers)
    cut = _last_n(family, n_removed, settings.keep, on_message)
    models = wholes | cut | {RESULT: result}
    if LAST_N in models:
        on_message("scoring last_n on the test split ...")
        job = Job(models[LAST_N], record.header.n_examples("test"), "test")
        scores[LAST_N] = _scored(evaluator, {LAST_N: job})[LAST_N]
    tokens = prompt_tokens(settings, family, PROMPTS)
    n_new = new_tokens(family)
    prompts = [Prompt(each, n_new) for each in tokens]
    what = f"{n_new} tokens after each of {len(prompts)} prompts"
    if guarded := [entry.seconds for entry in record.entries if isinstance(entry, WrittenEntry)]:
        seconds = sum(guarded) / len(guarded) / len(GUARD_OPENERS) * len(prompts) * len(models)
        what += f", {roughly(seconds)} by what the run took"
    on_message(f"letting {len(models)} models write {what} ...")
    texts = _texts(evaluator.engine, models, prompts)
    measured = _measured(evaluator.engine, models, prompts)
    SamplesFile(
        tailoring=result.digest,
        prompts=PROMPTS[:N_SHOWN],
        models=tuple(
            SampledModel(
                name=name,
                scores=Scores({**scores[name].tasks, **measured[name].tasks}),
                texts=texts[name],
            )
            for name in models
        ),
    ).save(run)
    return read_run(run)


def _last_n(
    family: Family, n_removed: int, keep: Sequence[int], on_message: Callable[[str], None]
) -> dict[str, Tailoring]:
    """The base without the layers before its last one, nothing repaired; none if it can't be."""
    last = family.n_layers - 1
    try:
        space = Space(family.n_layers, n_removed, keep=frozenset({*keep, last}))
        tailoring = space.uniform(space.free[len(space.free) - n_removed :], (BASE,))
        family.check(tailoring)
    except UserError as error:
        on_message(f"note: last_n is left out: {'; '.join(error.problems)}")
        return {}
    return {LAST_N: tailoring}


def _texts(
    engine: Engine, models: Mapping[str, Tailoring], prompts: Sequence[Prompt]
) -> dict[str, tuple[str, ...]]:
    """What each model writes after the prompts that are shown."""
    texts = {}
    for name, tailoring in models.items():
        written = generate(engine, tailoring, prompts[:N_SHOWN])
        if written.answers is None:
            raise TailoringError(f"{name} can't write: {written.failure}")
        texts[name] = tuple(answer.text for answer in written.answers)
    return texts


def _measured(
    engine: Engine, models: Mapping[str, Tailoring], prompts: Sequence[Prompt]
) -> dict[str, Scores]:
    """Faults of what each model writes, and how it reads what the base writes."""
    tokens = [prompt.tokens for prompt in prompts]
    n_new = prompts[0].max_new_tokens
    own = own_texts(engine, BASE, tokens, n_new)
    tasks = [continued_task(tokens, n_new), own_text_task(own)]
    evaluator = Evaluator(engine, {"test": tasks}, teachers={GENERATION: BASE})
    return _scored(evaluator, {n: Job(each, len(tokens), "test") for n, each in models.items()})


def _scored(evaluator: Evaluator, jobs: Mapping[str, Job]) -> dict[str, Scores]:
    found = {}
    for name, done in zip(jobs, evaluator.evaluate([*jobs.values()]), strict=True):
        if done.scores is None:
            raise TailoringError(f"{name} can't be scored: {done.failure}")
        found[name] = done.scores
    return found
