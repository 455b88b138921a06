"""The model card: what the model is, where every layer comes from, what it scores.

A pure function of plain facts, but for one look at the disk: a source that exists here is no hub
id, and hubs refuse a card whose ``base_model`` is a path. Every name and path is made harmless for
Markdown and YAML. Knows nothing of weights.
"""

import math
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from huggingface_hub import EvalResult, ModelCardData

from gptailor.core.metrics import METRICS
from gptailor.core.score_table import RESULT, ScoreTable
from gptailor.core.statistics import Estimate
from gptailor.core.tailoring import BASE, LayerSpec, Tailoring

__all__ = ["CardFacts", "model_card", "place_of", "places_of"]

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9][\w.-]{0,95})?\Z", re.ASCII)
_ENTITIES = {ord(char): f"&#{ord(char)};" for char in "&<>|\\`*[]~$"}
_PIPELINES = {
    "AutoModelForCausalLM": "text-generation",
    "AutoModelForImageTextToText": "image-text-to-text",
}
_EDGE_UNDERSCORE = re.compile(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")  # within a word it is text


@dataclass(frozen=True, slots=True)
class CardFacts:
    """All that a card tells.

    Args:
        name: What the model is called.
        tailoring: How it was made.
        n_layers: How many layers each member has.
        paths: Member to where it came from: a hub id, a folder, a file.
        licence: The base's licence, as hub metadata writes it; None if not known.
        languages: Language codes, if known.
        parameters: Of the base and of the result; None if not known.
        scores: Of the base and the result, on examples that the search did not see.
        scores_note: A sentence on which examples these are.
        n_tried: How many candidates were tried; None if there was no search.
        notes: Sentences on what happened to the members when they were read.
        versions: Program to version.
        uniform: Whether all layers of the members are of one kind.
        auto_class: The class of transformers that reads the checkpoint.
    """

    name: str
    tailoring: Tailoring
    n_layers: int
    paths: Mapping[str, str]
    licence: str | None = None
    languages: tuple[str, ...] = ()
    parameters: tuple[int, int] | None = None
    scores: ScoreTable | None = None
    scores_note: str = ""
    n_tried: int | None = None
    notes: tuple[str, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    uniform: bool = True
    auto_class: str = "AutoModelForCausalLM"


def model_card(facts: CardFacts) -> str:
    """Write a README.md with the front matter that model hubs read.

    Example:
        >>> tailoring = Tailoring.from_yaml("{format: gptailor/1, layers: ['base:0', 'base:2']}")
        >>> card = model_card(CardFacts("pico", tailoring, 3, {"base": "./pico"}))
        >>> "llama-quantize --prune-layers 1 " in card
        True
    """
    sections = (
        _front_matter(facts),
        _headline(facts),
        _use(facts),
        _members(facts),
        _scores(facts),
        _lineage(facts),
        _exact(facts),
        _made_with(facts),
    )
    return "\n\n".join(section for section in sections if section) + "\n"


def _front_matter(facts: CardFacts) -> str:
    sources = [facts.paths.get(member) for member in _members_used(facts.tailoring)]
    named = [_hub_name(place_of(source)) for source in sources if source is not None]
    ids = list(dict.fromkeys(name for name in named if name))
    data = ModelCardData(
        base_model=ids or None,
        base_model_relation="merge" if ids else None,
        eval_results=_eval_results(facts.scores) or None,
        language=[_clean(language) for language in facts.languages] or None,
        library_name="transformers",
        license=None if facts.licence is None else _clean(facts.licence),
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
    n_kept = len(facts.tailoring.layers)
    told = (
        f"A smaller language model of {n_kept} layers, made without training from a family of "
        f"models with {facts.n_layers} layers each: whole layers were cut, taken from one member "
        "or merged from several, as written below."
    )
    if facts.parameters is not None:
        base, result = facts.parameters
        told += (
            f" It has {result:,} parameters; the base has {base:,}, "
            f"so {1 - result / base:.1%} were removed."
        )
    if facts.n_tried is not None:
        told += f" It was chosen among {facts.n_tried:,} candidates that were tried."
    return f"# {_text(facts.name)}\n\n{told}"


def _use(facts: CardFacts) -> str:
    return f"""## How to use it

A stock checkpoint: it needs nothing but `transformers`, and every program that reads such folders.

```python
from transformers import {facts.auto_class}, AutoTokenizer

folder = "."  # where this file stands
tokenizer = AutoTokenizer.from_pretrained(folder)
model = {facts.auto_class}.from_pretrained(folder, dtype="auto")
inputs = tokenizer("The capital of France is", return_tensors="pt")
print(tokenizer.decode(model.generate(**inputs, max_new_tokens=20)[0]))
```"""


def _members(facts: CardFacts) -> str:
    rows = [
        (_text(member), _text(facts.paths.get(member, "not known")))
        for member in _members_used(facts.tailoring)
    ]
    table = _table(("member", "where it came from"), rows)
    licence = "The licence of the base is not known to this program; look it up before you share."
    if facts.licence is not None:
        licence = f"The base's licence is {_text(facts.licence)}; the variants' may ask for more."
    notes = "".join(f"\n- {_text(note)}" for note in facts.notes)
    return f"## The family\n\n{table}\n\n{licence}" + (f"\n{notes}" if notes else "")


def _scores(facts: CardFacts) -> str:
    if facts.scores is None:
        return ""
    rows = [
        (
            _text(row.task),
            _text(row.metric),
            "" if (base := facts.scores.row(BASE, row.task)) is None else _number(base.score.value),
            _estimate(row.score, _number),
            "" if row.retention is None else _estimate(row.retention, _percent),
            f"{row.n_examples:,}",
        )
        for row in facts.scores.rows_of(RESULT)
    ]
    head = ("task", "metric", "base", "result [95 % interval]", "retention", "examples")
    metrics = dict.fromkeys(row.metric for row in facts.scores.rows if row.metric in METRICS)
    legend = "".join(f"\n- {_text(name)}: {_meaning(name)}" for name in metrics)
    note = f"{_text(facts.scores_note)}\n\n" if facts.scores_note else ""
    return f"## Scores\n\n{note}{_table(head, rows)}" + (f"\n{legend}" if legend else "")


def _meaning(metric: str) -> str:
    way = "higher" if METRICS[metric].higher_is_better else "lower"
    return f"{_text(METRICS[metric].meaning)}; {way} is better"


def _lineage(facts: CardFacts) -> str:
    layers = facts.tailoring.layers
    rows = [(str(index), *_origin(spec)) for index, spec in enumerate(layers)]
    rows += [(part, *_origin(spec)) for part, spec in facts.tailoring.outer_parts.items()]
    drawn_on = {source.layer for spec in layers for source in spec.sources}
    cut = [layer for layer in range(facts.n_layers) if layer not in drawn_on]
    told = f"Cut: {', '.join(map(str, cut))}." if cut else "No layer was cut."
    if len(cut) + len(layers) != facts.n_layers:
        told += " Some layers were moved, folded into others or stand more than once."
    return (
        "## Where every layer comes from\n\n"
        f"{_table(('layer', 'from', 'how'), rows)}\n\n{told} Layers are counted from 0."
    )


def _origin(spec: LayerSpec) -> tuple[str, str]:
    sources = ", ".join(str(source) for source in spec.sources)
    if spec.method is None:
        return _text(sources), "taken"
    told = [spec.method, *(f"{key} {_value(value)}" for key, value in spec.params)]
    told += [f"differences from {spec.base}"] if spec.base is not None else []
    return _text(sources), _text(f"merged: {', '.join(told)}")


def _exact(facts: CardFacts) -> str:
    text = (
        "## The exact tailoring\n\nWith the members above, this rebuilds the model "
        f"(it is also in `tailoring.yaml`):\n\n```yaml\n{facts.tailoring.to_yaml().rstrip()}\n```"
    )
    member, pruned = _pruned(facts)
    if pruned:
        text += (
            "\n\nLayers were only cut, so llama.cpp can make the same model from a GGUF file of "
            f"{'the base' if member == BASE else _text(member)}; `COPY` keeps the file's type, and "
            "another, such as `Q4_K_M`, may stand there:\n\n```\nllama-quantize --prune-layers "
            f"{','.join(map(str, pruned))} {member}.gguf tailored.gguf COPY\n```"
        )
    return text


def _pruned(facts: CardFacts) -> tuple[str, list[int]]:
    """The only member, and its layers that were cut, from 0; no layers if more was done to it.

    Nothing where layers differ in kind: llama.cpp goes by a block's number there, or by lists that
    it leaves as long as they were.
    """
    specs = [*facts.tailoring.layers, *facts.tailoring.outer_parts.values()]
    members = {member for spec in specs for member in spec.members}
    kept = [spec.position for spec in facts.tailoring.layers]
    merged = any(spec.method is not None for spec in specs)
    if merged or len(members) > 1 or not facts.uniform or kept != sorted(set(kept)):
        return BASE, []
    return members.pop(), [layer for layer in range(facts.n_layers) if layer not in kept]


def _made_with(facts: CardFacts) -> str:
    if not facts.versions:
        return ""
    rows = [(_text(name), _text(version)) for name, version in facts.versions.items()]
    return f"## Made with\n\n{_table(('program', 'version'), rows)}"


def _members_used(tailoring: Tailoring) -> list[str]:
    """The base, then every variant whose weights are in the result, in order of appearance."""
    specs = [*tailoring.layers, *tailoring.outer_parts.values()]
    return list(dict.fromkeys([BASE, *(member for spec in specs for member in spec.members)]))


def places_of(sources: Mapping[str, str]) -> list[Path]:
    """Where members lie, by member: what an export of them must never replace."""
    return [Path(place_of(source)) for source in sources.values()]


def place_of(source: str) -> str:
    """What a source says before its remarks: ``./math`` of ``./math (adapter on makers/pico)``."""
    return source.partition(" (adapter on ")[0]


def _hub_name(place: str) -> str:
    """A hub id, without its revision; of a folder or a file the last name alone."""
    hub_id = place.partition("@")[0]
    if _HUB_ID.match(hub_id) and not Path(place).exists():
        return hub_id
    name = place.rstrip("/").rpartition("/")[2].removesuffix(".gguf")
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.")


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _clean(text: str) -> str:
    """One line without control characters, whatever the text was."""
    kinds = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
    plain = (" " if unicodedata.category(char) in kinds else char for char in text)
    return " ".join("".join(plain).split())


def _text(text: str) -> str:
    """Text that Markdown shows as it is, in a table too."""
    return _EDGE_UNDERSCORE.sub("&#95;", _clean(text).translate(_ENTITIES))


def _number(value: float) -> str:
    return f"{value:.4g}"


def _percent(value: float) -> str:
    return f"{value:.1%}" if math.isfinite(value) else "-"


def _estimate(estimate: Estimate, told: Callable[[float], str]) -> str:
    return f"{told(estimate.value)} [{told(estimate.low)}, {told(estimate.high)}]"


def _value(value: object) -> str:
    if isinstance(value, tuple):
        return "[" + ", ".join(f"{item:g}" for item in value) + "]"
    return f"{value:g}" if isinstance(value, float) else str(value)
