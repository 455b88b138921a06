"""The model card: what the model is, the source of every layer, its scores.

Names and paths are escaped for Markdown and YAML.
"""

import functools
import json
import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from huggingface_hub import EvalResult, ModelCardData

from gptailor.core.metrics import METRICS
from gptailor.core.repair import repair_sentence
from gptailor.core.score_table import ScoreTable, Share
from gptailor.core.statistics import RESULT, Estimate
from gptailor.core.tailoring import BASE, LayerSpec, Tailoring
from gptailor.export.card_text import bullets, clean, escaped, shown_path, table
from gptailor.family.hub import HUB_ID
from gptailor.files.yaml import read_yaml
from gptailor.report.chat_use import ChatUse
from gptailor.report.words import count, spans
from gptailor.report.writing import Writing

__all__ = ["CardFacts", "model_card", "path_only", "paths_only"]

_PIPELINES = {
    "AutoModelForCausalLM": "text-generation",
    "AutoModelForImageTextToText": "image-text-to-text",
}
_USE = """## How to use it

A stock checkpoint: it needs nothing but `transformers`, and every program that reads such folders.

```python
from transformers import {auto_class}, AutoTokenizer

folder = "."  # the folder of this file
tokenizer = AutoTokenizer.from_pretrained(folder)
model = {auto_class}.from_pretrained(folder, dtype="auto")
{inputs}
print(tokenizer.decode(model.generate(**inputs, max_new_tokens=20)[0]))
```"""
_PLAIN = 'inputs = tokenizer("The capital of France is", return_tensors="pt")'
_CHAT = """inputs = tokenizer.apply_chat_template(
    {messages},{template}
    add_generation_prompt=True,
    return_dict=True,
    return_tensors="pt",
)"""


@dataclass(frozen=True, slots=True)
class CardFacts:
    """The contents of a card.

    Args:
        name: The model's name.
        tailoring: How it was made.
        n_layers: How many layers each member has.
        paths: Member to its path: a hub id, a folder, a file.
        licence: The base's licence, as hub metadata writes it; None if not known.
        parameters: Of the base and of the result; None if not known.
        scores: Of the members and the result, on examples that the search did not see.
        scores_note: A sentence on which examples these are.
        n_tried: How many candidates were tried; None if there was no search.
        notes: Sentences on the reading of the members.
        versions: Program to version.
        uniform: Whether all layers of the members are of one kind.
        auto_class: The class of transformers that reads the checkpoint.
        chat: How the tasks were put to the models.
        writing: What the result and others write, where that was measured.
        width: A sentence without its full stop on what was left out of every layer, or "".
        target: A sentence without its full stop on the target, or "".
        proof: Rows of what was measured: its name, of the base, of the result, and their ratio.
    """

    name: str
    tailoring: Tailoring
    n_layers: int
    paths: Mapping[str, str]
    licence: str | None = None
    parameters: tuple[int, int] | None = None
    scores: ScoreTable | None = None
    scores_note: str = ""
    n_tried: int | None = None
    notes: tuple[str, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    uniform: bool = True
    auto_class: str = "AutoModelForCausalLM"
    chat: ChatUse = field(default_factory=ChatUse)
    writing: Writing | None = None
    width: str = ""
    target: str = ""
    proof: Sequence[Sequence[str]] = ()


def model_card(facts: CardFacts) -> str:
    """Write a README.md with the front matter that model hubs read.

    Example:
        >>> tailoring = Tailoring.from_yaml("{format: gptailor/1, layers: ['base:0', 'base:2']}")
        >>> card = model_card(CardFacts("pico", tailoring, 3, {"base": "./pico"}))
        >>> "llama-quantize --prune-layers 1 " in card
        True
    """
    programs = [f"{escaped(name)} {escaped(version)}" for name, version in facts.versions.items()]
    sections = (
        _front_matter(facts),
        _headline(facts),
        _USE.format(auto_class=facts.auto_class, inputs=_inputs(facts.chat)),
        _members(facts),
        "" if facts.scores is None else _scores(facts.scores, facts.scores_note),
        _target(facts),
        "" if facts.writing is None else _writes(facts.writing),
        _layers(facts),
        _exact(facts),
        f"Made with {', '.join(programs)}." if programs else "",
    )
    return "\n\n".join(section for section in sections if section) + "\n"


def paths_only(paths: Mapping[str, str]) -> list[Path]:
    """The members' folders and files, which an export of them must never replace."""
    return [Path(path_only(path)) for path in paths.values()]


def path_only(path: str) -> str:
    """A path without its remark: ``./math`` of ``./math (adapter on makers/pico)``."""
    return path.partition(" (adapter on ")[0]


def _front_matter(facts: CardFacts) -> str:
    paths = [facts.paths[name] for name in _members_used(facts.tailoring) if name in facts.paths]
    ids = [name for name in dict.fromkeys(_hub_name(path_only(path)) for path in paths) if name]
    licence = None if facts.licence is None else clean(facts.licence)
    known = licence is None or licence in _licences()
    data = ModelCardData(
        base_model=ids or None,
        base_model_relation="merge" if ids else None,
        eval_results=_eval_results(facts.scores) or None,
        library_name="transformers",
        license=licence if known else "other",
        license_name=None if known or licence is None else _slug(licence),
        model_name=clean(facts.name),
        pipeline_tag=_PIPELINES[facts.auto_class],
        tags=["gptailor", "merge", "layer-pruning"],
    )
    return f"---\n{data.to_yaml()}\n---"


def _eval_results(scores: ScoreTable | None) -> list[EvalResult]:
    return [
        EvalResult(
            task_type="text-generation",
            dataset_type=clean(row.task),
            dataset_name=clean(row.task),
            metric_type=clean(row.metric),
            metric_value=row.score.value,
        )
        for row in (() if scores is None else scores.rows_of(RESULT))
        if math.isfinite(row.score.value)  # JSON, which hubs turn this into, has no NaN
    ]


def _headline(facts: CardFacts) -> str:
    n_layers = len(facts.tailoring.layers)
    cut = "whole layers were cut," if n_layers < facts.n_layers else "each layer was"
    text = (
        f"A smaller language model of {n_layers} layers, made without training from a family of "
        f"models with {facts.n_layers} layers each: {cut} taken from one member or merged from "
        "several, as written below."
    )
    if facts.width:
        text += f" {escaped(facts.width)}."
    if facts.parameters is not None:
        base, result = facts.parameters
        text += (
            f" It has {result:,} parameters; the base has {base:,}, "
            f"so {1 - result / base:.1%} were removed."
        )
    if facts.n_tried is not None:
        text += f" It was chosen among {count(facts.n_tried, 'candidate')} tried."
    return f"# {escaped(facts.name)}\n\n{text}"


def _inputs(chat: ChatUse) -> str:
    if chat.template is None:
        return _PLAIN
    system = [] if chat.system is None else [{"role": "system", "content": chat.system}]
    messages = [*system, {"role": "user", "content": "What is the capital of France?"}]
    template = f"\n    chat_template={_quoted(chat.template)}," if chat.template else ""
    return _CHAT.format(messages=_quoted(messages), template=template)


def _quoted(value: object) -> str:
    """A text, or a list of dictionaries of texts, as Python writes it, in ASCII."""
    return json.dumps(value).replace("`", "\\u0060")


def _members(facts: CardFacts) -> str:
    names = _members_used(facts.tailoring)
    paths = [shown_path(facts.paths.get(name, "not known")) for name in names]
    rows = zip(map(escaped, names), map(escaped, paths), strict=True)
    licence = "The licence of the base is not known to this program; look it up before you share."
    if facts.licence is not None:
        licence = f"The base's licence is {escaped(facts.licence)}; the variants' may ask for more."
    notes = bullets(escaped(note) for note in facts.notes)
    return f"## The family\n\n{table(('member', 'path'), rows)}\n\n{licence}{notes}"


def _scores(scores: ScoreTable, note: str) -> str:
    members = scores.references
    rows = [
        (
            escaped(row.task),
            escaped(row.metric),
            *(_member_score(scores, member, row.task) for member in members),
            "" if row.chance is None else f"{row.chance:.4g}",
            _estimate(row.score, "{:.4g}".format),
            *_shares(row.of_base, row.of_best, len(members)),
            f"{row.n_examples:,}",
        )
        for row in scores.rows_of(RESULT)
    ]
    if (mean := scores.means.get(RESULT)) is not None and len(rows) > 1:
        blank = [""] * (len(members) + 3)
        rows.append(("mean", *blank, *_shares(mean.of_base, mean.of_best, len(members)), ""))
    kept = [text for name in members for text in (f"share of {escaped(name)}", "above chance")]
    names = map(escaped, members)
    head = ("task", "metric", *names, "chance", "result [95 % interval]", *kept, "examples")
    legend = bullets(
        f"{escaped(name)}: {escaped(METRICS[name].meaning)}; "
        f"{'higher' if METRICS[name].higher_is_better else 'lower'} is better"
        for name in dict.fromkeys(row.metric for row in scores.rows)
        if name in METRICS
    )
    return f"## Scores\n\n{escaped(note)}\n\n{table(head, rows)}{legend}"


def _writes(found: Writing) -> str:
    """Texts after a few prompts, and what was measured on all of them."""
    text = f"## What it writes\n\n{escaped(found.about)}."
    if found.guard:
        text += f"\n\nThe guard: {escaped(found.guard)}."
    for prompt, texts in found.texts:
        lines = (f"**{escaped(name)}**: {escaped(each) or '(nothing)'}" for name, each in texts)
        text += f"\n\nAfter `{clean(prompt).replace('`', '')}`{bullets(lines)}"
    for grid in (found.faults, found.scores):
        if grid is not None:
            cells = [["<br>".join(map(escaped, cell.split("\n"))) for cell in r] for r in grid.rows]
            text += f"\n\n{grid.title}:\n\n{table([*map(escaped, grid.head)], cells)}"
    return text + bullets(map(escaped, found.notes))


def _member_score(scores: ScoreTable, member: str, task: str) -> str:
    row = scores.row(member, task)
    return "" if row is None else f"{row.score.value:.4g}"


def _shares(of_base: Share | None, of_best: Share | None, n_members: int) -> list[str]:
    """Two cells a member: the share of its score, and of what it scores above chance."""
    cells = []
    for share in (of_base, of_best)[:n_members]:
        kept, above = (None, None) if share is None else (share.kept, share.above_chance)
        cells.append("" if kept is None else _estimate(kept, _percent))
        at_chance = "not above chance" if share is not None and share.at_chance else ""
        cells.append(at_chance if above is None else _estimate(above, _percent))
    return cells


def _target(facts: CardFacts) -> str:
    if not facts.target:
        return ""
    rows = [[escaped(cell) for cell in row] for row in facts.proof]
    head = ("measured after the search", "base", "result", "ratio")
    note = "Timed in turns: the median of the rounds, and the lowest and the highest."
    proof = f"\n\n{table(head, rows)}\n\n{note}" if rows else ""
    return f"## Size and speed\n\nWanted: {escaped(facts.target)}.{proof}"


def _layers(facts: CardFacts) -> str:
    layers = facts.tailoring.layers
    rows = [(str(index), *_source(spec)) for index, spec in enumerate(layers)]
    rows += [(part, *_source(spec)) for part, spec in facts.tailoring.outer_parts.items()]
    used = {source.layer for spec in layers for source in spec.all_sources}
    cut = [layer for layer in range(facts.n_layers) if layer not in used]
    text = f"Cut: {spans(cut)}." if cut else "No layer was cut."
    if len(cut) + len(layers) != facts.n_layers:
        text += " Some layers were moved, merged into others or are there more than once."
    text += f" {repaired}" if (repaired := repair_sentence(facts.tailoring)) else ""
    return (
        "## The source of every layer\n\n"
        f"{table(('layer', 'from', 'how'), rows)}\n\n{text} Layers are counted from 0: in the "
        "first column those of this model, elsewhere those of the whole models."
    )


def _source(spec: LayerSpec) -> tuple[str, str]:
    sources = ", ".join(str(source) for source in spec.sources)
    how = ["taken"]
    if spec.method is not None:
        how = [f"merged: {spec.method}"]
        how += [f"{key} {_value(value)}" for key, value in spec.params]
        how += [f"differences from {spec.base}"] if spec.base is not None else []
    how += [f"what it adds multiplied by {spec.gain:g}"] if spec.gain != 1.0 else []
    if spec.refit_to is not None:
        last = max(each.layer or 0 for each in spec.all_sources)
        cut = range(last + 1, spec.refit_to)
        layers = f"layer{'s' if len(cut) > 1 else ''} {spans(cut)}"
        how += [f"refitted for the cut of {layers}" if cut else "refitted"]
    how += [f"tensors of fitted/{spec.fitted}"] if spec.fitted is not None else []
    return escaped(sources), escaped(", ".join(how))


def _exact(facts: CardFacts) -> str:
    text = (
        "## The exact tailoring\n\nWith the members above, this rebuilds the model "
        f"(it is also in `tailoring.yaml`):\n\n```yaml\n{facts.tailoring.to_yaml().rstrip()}\n```"
    )
    member, pruned = _pruned(facts)
    if pruned:
        text += (
            "\n\nLayers were only cut, so llama.cpp can make the same model from a GGUF file of "
            f"{'the base' if member == BASE else escaped(member)}; `COPY` keeps the file's type; "
            "another, such as `Q4_K_M`, can be given instead:\n\n```\nllama-quantize "
            f"--prune-layers {','.join(map(str, pruned))} {member}.gguf tailored.gguf COPY\n```"
        )
    return text


def _pruned(facts: CardFacts) -> tuple[str, list[int]]:
    """The only member, and its layers that were cut, from 0; no layers if more was done to it.

    None where layers differ in kind: llama.cpp derives the kind from a block's number, or from
    lists that it leaves as long as they were.
    """
    specs = [*facts.tailoring.layers, *facts.tailoring.outer_parts.values()]
    members = {member for spec in specs for member in spec.members}
    kept = [spec.position for spec in facts.tailoring.layers]
    changed = any(spec.method is not None or spec.repaired for spec in specs)
    if changed or len(members) > 1 or not facts.uniform or kept != sorted(set(kept)):
        return BASE, []
    return members.pop(), [layer for layer in range(facts.n_layers) if layer not in kept]


def _members_used(tailoring: Tailoring) -> list[str]:
    """The base, then every variant whose weights are in the result, in order of appearance."""
    specs = [*tailoring.layers, *tailoring.outer_parts.values()]
    return list(dict.fromkeys([BASE, *(member for spec in specs for member in spec.members)]))


def _hub_name(path: str) -> str | None:
    """The repository of a hub id; None of a folder or a file, which the hub can't link to."""
    found = HUB_ID.match(path)
    return found["name"] if found and not Path(path).exists() else None


@functools.cache
def _licences() -> Collection[str]:
    """The hub's names of licences; another is `other`, with its own name beside it."""
    return frozenset(read_yaml(Path(__file__).with_name("licences.yaml")))


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9._-]+", "-", text.lower()).strip("-.") or "unknown"


def _percent(value: float) -> str:
    return f"{value:.1%}" if math.isfinite(value) else "-"


def _estimate(estimate: Estimate, format_: Callable[[float], str]) -> str:
    low, high = format_(estimate.low), format_(estimate.high)
    return f"{format_(estimate.value)} [{low}, {high}]"


def _value(value: object) -> str:
    if isinstance(value, tuple):
        return "[" + ", ".join(f"{item:g}" for item in value) + "]"
    return f"{value:g}" if isinstance(value, float) else str(value)
