"""The model card: what the model is, the source of every layer, its scores.

Names and paths are escaped for Markdown and YAML.
"""

import functools
import math
import re
import unicodedata
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from huggingface_hub import EvalResult, ModelCardData

from gptailor.core.metrics import METRICS
from gptailor.core.repair import repair_sentence
from gptailor.core.score_table import ScoreTable, Share
from gptailor.core.statistics import RESULT, Estimate
from gptailor.core.tailoring import BASE, LayerSpec, Tailoring
from gptailor.family.hub import HUB_ID
from gptailor.files.yaml import read_yaml
from gptailor.report.words import count
from gptailor.report.writing import Writing

__all__ = ["CardFacts", "model_card", "path_only", "paths_only"]

_ENTITIES = {ord(char): f"&#{ord(char)};" for char in "&<>|\\`*[]~$"}
_PIPELINES = {
    "AutoModelForCausalLM": "text-generation",
    "AutoModelForImageTextToText": "image-text-to-text",
}
_EDGE_UNDERSCORE = re.compile(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")  # within a word it is text
_USE = """## How to use it

A stock checkpoint: it needs nothing but `transformers`, and every program that reads such folders.

```python
from transformers import {auto_class}, AutoTokenizer

folder = "."  # the folder of this file
tokenizer = AutoTokenizer.from_pretrained(folder)
model = {auto_class}.from_pretrained(folder, dtype="auto")
inputs = tokenizer("The capital of France is", return_tensors="pt")
print(tokenizer.decode(model.generate(**inputs, max_new_tokens=20)[0]))
```"""


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
    programs = [f"{_text(name)} {_text(version)}" for name, version in facts.versions.items()]
    sections = (
        _front_matter(facts),
        _headline(facts),
        _USE.format(auto_class=facts.auto_class),
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
    licence = None if facts.licence is None else _clean(facts.licence)
    known = licence is None or licence in _licences()
    data = ModelCardData(
        base_model=ids or None,
        base_model_relation="merge" if ids else None,
        eval_results=_eval_results(facts.scores) or None,
        library_name="transformers",
        license=licence if known else "other",
        license_name=None if known or licence is None else _slug(licence),
        model_name=_clean(facts.name),
        pipeline_tag=_PIPELINES[facts.auto_class],
        tags=["gptailor", "merge", "layer-pruning"],
    )
    return f"---\n{data.to_yaml()}\n---"


def _eval_results(scores: ScoreTable | None) -> list[EvalResult]:
    return [
        EvalResult(
            task_type="text-generation",
            dataset_type=_clean(row.task),
            dataset_name=_clean(row.task),
            metric_type=_clean(row.metric),
            metric_value=row.score.value,
        )
        for row in (() if scores is None else scores.rows_of(RESULT))
        if math.isfinite(row.score.value)  # JSON, which hubs turn this into, has no NaN
    ]


def _headline(facts: CardFacts) -> str:
    text = (
        f"A smaller language model of {len(facts.tailoring.layers)} layers, made without training "
        f"from a family of models with {facts.n_layers} layers each: whole layers were cut, taken "
        "from one member or merged from several, as written below."
    )
    if facts.width:
        text += f" {_text(facts.width)}."
    if facts.parameters is not None:
        base, result = facts.parameters
        text += (
            f" It has {result:,} parameters; the base has {base:,}, "
            f"so {1 - result / base:.1%} were removed."
        )
    if facts.n_tried is not None:
        text += f" It was chosen among {count(facts.n_tried, 'candidate')} tried."
    return f"# {_text(facts.name)}\n\n{text}"


def _members(facts: CardFacts) -> str:
    names = _members_used(facts.tailoring)
    rows = [(_text(name), _text(_shown(facts.paths.get(name, "not known")))) for name in names]
    licence = "The licence of the base is not known to this program; look it up before you share."
    if facts.licence is not None:
        licence = f"The base's licence is {_text(facts.licence)}; the variants' may ask for more."
    notes = _bullets(_text(note) for note in facts.notes)
    return f"## The family\n\n{_table(('member', 'path'), rows)}\n\n{licence}{notes}"


def _scores(scores: ScoreTable, note: str) -> str:
    members = scores.references
    rows = [
        (
            _text(row.task),
            _text(row.metric),
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
    kept = [text for name in members for text in (f"share of {_text(name)}", "above chance")]
    names = map(_text, members)
    head = ("task", "metric", *names, "chance", "result [95 % interval]", *kept, "examples")
    legend = _bullets(
        f"{_text(name)}: {_text(METRICS[name].meaning)}; "
        f"{'higher' if METRICS[name].higher_is_better else 'lower'} is better"
        for name in dict.fromkeys(row.metric for row in scores.rows)
        if name in METRICS
    )
    return f"## Scores\n\n{_text(note)}\n\n{_table(head, rows)}{legend}"


def _writes(found: Writing) -> str:
    """Texts after a few prompts, and what was measured on all of them."""
    text = f"## What it writes\n\n{_text(found.about)}."
    if found.guard:
        text += f"\n\nThe guard: {_text(found.guard)}."
    for prompt, texts in found.texts:
        lines = (f"**{_text(name)}**: {_text(each) or '(nothing)'}" for name, each in texts)
        text += f"\n\nAfter `{_clean(prompt).replace('`', '')}`{_bullets(lines)}"
    for grid in (found.faults, found.scores):
        if grid is not None:
            cells = [["<br>".join(map(_text, cell.split("\n"))) for cell in r] for r in grid.rows]
            text += f"\n\n{grid.title}:\n\n{_table([*map(_text, grid.head)], cells)}"
    return text + _bullets(map(_text, found.notes))


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
    rows = [[_text(cell) for cell in row] for row in facts.proof]
    head = ("measured after the search", "base", "result", "ratio")
    note = "Timed in turns: the median of the rounds, and the lowest and the highest."
    table = f"\n\n{_table(head, rows)}\n\n{note}" if rows else ""
    return f"## Size and speed\n\nWanted: {_text(facts.target)}.{table}"


def _layers(facts: CardFacts) -> str:
    layers = facts.tailoring.layers
    rows = [(str(index), *_source(spec)) for index, spec in enumerate(layers)]
    rows += [(part, *_source(spec)) for part, spec in facts.tailoring.outer_parts.items()]
    used = {source.layer for spec in layers for source in spec.sources}
    cut = [layer for layer in range(facts.n_layers) if layer not in used]
    text = f"Cut: {', '.join(map(str, cut))}." if cut else "No layer was cut."
    if len(cut) + len(layers) != facts.n_layers:
        text += " Some layers were moved, merged into others or are there more than once."
    text += f" {repaired}" if (repaired := repair_sentence(facts.tailoring)) else ""
    return (
        "## The source of every layer\n\n"
        f"{_table(('layer', 'from', 'how'), rows)}\n\n{text} Layers are counted from 0."
    )


def _source(spec: LayerSpec) -> tuple[str, str]:
    sources = ", ".join(str(source) for source in spec.sources)
    how = ["taken"]
    if spec.method is not None:
        how = [f"merged: {spec.method}"]
        how += [f"{key} {_value(value)}" for key, value in spec.params]
        how += [f"differences from {spec.base}"] if spec.base is not None else []
    how += [f"what it adds multiplied by {spec.gain:g}"] if spec.gain != 1.0 else []
    how += [f"refitted for the cut before {spec.refit_to}"] if spec.refit_to is not None else []
    how += [f"tensors of fitted/{spec.fitted}"] if spec.fitted is not None else []
    return _text(sources), _text(", ".join(how))


def _exact(facts: CardFacts) -> str:
    text = (
        "## The exact tailoring\n\nWith the members above, this rebuilds the model "
        f"(it is also in `tailoring.yaml`):\n\n```yaml\n{facts.tailoring.to_yaml().rstrip()}\n```"
    )
    member, pruned = _pruned(facts)
    if pruned:
        text += (
            "\n\nLayers were only cut, so llama.cpp can make the same model from a GGUF file of "
            f"{'the base' if member == BASE else _text(member)}; `COPY` keeps the file's type; "
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


def _shown(path: str) -> str:
    """A path with its remark; of an absolute one the last part, as cards are published."""
    parts = path.split(" (adapter on ")
    shown = [Path(part).name if Path(part).is_absolute() else part for part in parts]
    return " (adapter on ".join(shown)


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


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _bullets(lines: Iterable[str]) -> str:
    """A list below a paragraph or table; nothing without lines."""
    text = "".join(f"\n- {line}" for line in lines)
    return f"\n{text}" if text else ""


def _clean(text: str) -> str:
    """One line without control characters, for any text."""
    kinds = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
    plain = (" " if unicodedata.category(char) in kinds else char for char in text)
    return " ".join("".join(plain).split())


def _text(text: str) -> str:
    """Text that Markdown shows unchanged, in a table too."""
    return _EDGE_UNDERSCORE.sub("&#95;", _clean(text).translate(_ENTITIES))


def _percent(value: float) -> str:
    return f"{value:.1%}" if math.isfinite(value) else "-"


def _estimate(estimate: Estimate, format_: Callable[[float], str]) -> str:
    low, high = format_(estimate.low), format_(estimate.high)
    return f"{format_(estimate.value)} [{low}, {high}]"


def _value(value: object) -> str:
    if isinstance(value, tuple):
        return "[" + ", ".join(f"{item:g}" for item in value) + "]"
    return f"{value:g}" if isinstance(value, float) else str(value)
