"""Write a healed model as a stock checkpoint, with a card that says how it was healed."""

import dataclasses
import json
import re
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from torch import Tensor

from gptailor.core.tailoring import BASE, Tailoring
from gptailor.errors import ExportError
from gptailor.export.card_text import escaped, shown_path
from gptailor.export.checkpoint import write_weights
from gptailor.export.folder import replacing_folder
from gptailor.family import Family
from gptailor.family.library_calls import quiet
from gptailor.files.yaml import dump_yaml, parse_yaml
from gptailor.heal.distillation import Training

__all__ = ["HEALING", "HealingFacts", "healed_card", "with_changes", "write_healed"]

HEALING = "healing.json"
_SHARD_BYTES = 5_000_000_000
_LIBRARIES = ("gptailor", "peft", "transformers", "torch")
_SCORES = "model-index"
# sections of an export's card: one that is true here too, and one that is not
_USE = re.compile(r"## How to use it\n.*^folder = \"\.\"", re.DOTALL | re.MULTILINE)
_EXACT = "## The exact tailoring\n"


@dataclass(frozen=True, slots=True)
class HealingFacts:
    """How a model was healed, and what came of it."""

    model: str  # its folder, or the run's
    teacher: str  # its path
    digests: Mapping[str, str]  # of `model` and `teacher` before, and of the rows of `texts`
    files: Mapping[str, str]  # of texts: name to the digest of its bytes
    layers: tuple[int, ...] | None  # that were trained; all if None
    training: Training
    n_held_out: int  # tokens of texts that were not trained on
    before: float  # nats a token there
    after: float
    teachers: float
    tailoring: Tailoring | None = None  # of the model before

    @property
    def given_back(self) -> float | None:
        """The share of what the model lacked of the teacher; None where it lacked nothing."""
        lacked = self.before - self.teachers
        return (self.before - self.after) / lacked if lacked > 0 else None

    def to_plain(self) -> dict[str, Any]:
        """The JSON form; like a card it is published, so it names no absolute path."""
        tailoring = None if self.tailoring is None else self.tailoring.to_plain()
        plain = asdict(dataclasses.replace(self, tailoring=None))
        paths = {"model": shown_path(self.model), "teacher": shown_path(self.teacher)}
        return plain | paths | {"tailoring": tailoring, "given_back": self.given_back}


def with_changes(student: Family, changes: Mapping[str, Tensor]) -> Family:
    """The same model with changed weights, added in float32 and rounded once."""
    state = dict(student.states[BASE])
    for name, change in changes.items():
        state[name] = (state[name].float() + change).to(state[name].dtype)
    return dataclasses.replace(student, states={BASE: state})


def write_healed(  # as `export_checkpoint`
    healed: Family,
    facts: HealingFacts,
    out: Path,
    *,
    card: str,
    overwrite: bool,
    keep: Collection[Path],
) -> None:
    """Write a healed model by the rules of an export's folder, and compare it as it is read back.

    There is no ``tailoring.yaml``, as members alone do not make this model; ``healing.json`` has
    the facts. The other arguments are those of `export_checkpoint`.

    Raises:
        ExportError: The folder can't be written or replaced.
    """
    texts = {"README.md": card, HEALING: json.dumps(facts.to_plain(), indent=2) + "\n"}
    with (
        quiet(),
        replacing_folder(out, overwrite=overwrite, keep=keep, n_bytes=healed.nbytes) as beside,
    ):
        whole = Tailoring.whole(BASE, healed.n_layers)
        write_weights(healed, whole, beside, dtype=healed.dtype, shard_bytes=_SHARD_BYTES)
        for name, text in texts.items():
            (beside / name).write_text(text, encoding="utf-8")


def healed_card(card: str, facts: HealingFacts, name: str) -> str:
    """A card that says how the model was healed, and what the model before was.

    Args:
        card: Of the model before; "" where there is none. Scores in its front matter and the
            section on how to rebuild it are left out: they are not of this model.
        facts: How it was healed.
        name: Of the healed model.
    """
    own = f"# {escaped(name)}\n\n{_section(facts)}\n"
    if not card:
        return own
    front, rest = "", card
    if card.startswith("---\n") and "\n---\n" in card[4:]:
        head, _, rest = card[4:].partition("\n---\n")
        about = parse_yaml(head, where="README.md", error_type=ExportError)
        front = f"---\n{dump_yaml({k: v for k, v in about.items() if k != _SCORES})}---\n\n"
    first, *sections = re.split(r"^(?=## )", rest.lstrip(), flags=re.MULTILINE)
    use = next(filter(_USE.match, sections), "")
    before = [first[first.find("\n") + 1 :] if first.startswith("# ") else first]
    before += [each for each in sections if each != use and not each.startswith(_EXACT)]
    lower = re.sub(r"^(?=##)", "#", "".join(before).strip(), flags=re.MULTILINE)
    return (
        f"{front}{own}\n{use}## The model before\n\nAll that follows is about "
        f"{escaped(Path(facts.model).resolve().name)} (digest {facts.digests['model']}), from "
        f"which this model was trained; its scores and texts are not those of this one.\n\n"
        f"{lower}\n"
    )


def _section(facts: HealingFacts) -> str:
    plan, digests, given = facts.training, facts.digests, facts.given_back
    files = ", ".join(f"`{file}` (sha256 {digest}...)" for file, digest in facts.files.items())
    layers = "all layers" if facts.layers is None else f"layers {', '.join(map(str, facts.layers))}"
    share = "" if given is None else f", so {given:.0%} of what it lacked was given back"
    libraries = ", ".join(f"{name} {version(name)}" for name in _LIBRARIES)
    return (
        f"## Healed\n\nThis model was trained for a short time: LoRA of rank {plan.rank} on the "
        f"linear maps of {layers}, merged into the weights, on {plan.n_steps * plan.step_tokens:,} "
        f"tokens of {files}. The loss was {plan.kl_weight:g} times the Kullback-Leibler divergence "
        f"from the teacher {escaped(shown_path(facts.teacher))} (digest {digests['teacher']}) and "
        f"{plan.next_token_weight:g} times that of the next token.\n\nOn {facts.n_held_out:,} "
        f"tokens of texts that it was not trained on it has {facts.after:.3f} nats a token; it had "
        f"{facts.before:.3f}, and the teacher has {facts.teachers:.3f}{share}.\n\nIt can't be made "
        f"from the members alone. More is in `{HEALING}`. Made with {libraries}."
    )
