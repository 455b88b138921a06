"""Heal a finished model: find it and its teacher, train, measure, and write the result.

What a stop leaves is in a folder beside the result, ``NAME.healing``; the same call goes
on with it.
"""

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from transformers import PreTrainedModel

from gptailor.app.export_run import export
from gptailor.app.inputs import max_length_of
from gptailor.app.settings import recorded_config
from gptailor.core.specs import MemberSpec
from gptailor.core.tailoring import BASE, Tailoring
from gptailor.engine.device import device_of
from gptailor.errors import ConfigError, ExportError, FamilyError, unknown
from gptailor.export.card import paths_only
from gptailor.export.folder import refuse_folder
from gptailor.export.options import ExportOptions
from gptailor.family import Family, load_family
from gptailor.family.dtypes import dtype_of
from gptailor.family.empty_model import model_around
from gptailor.files.atomic import write_atomically
from gptailor.heal.distillation import Training, held_out_loss, layers_at_cuts, trained_changes
from gptailor.heal.healed_folder import (
    HealingFacts,
    healed_card,
    with_changes,
    write_healed,
)
from gptailor.heal.texts import read_healing_texts
from gptailor.record.journal import RECORD
from gptailor.record.ladder_folder import ladder_of
from gptailor.record.run_record import RunRecord, read_run

__all__ = ["heal", "work_folder"]

_SETTINGS = "settings.json"


@dataclass(frozen=True, slots=True)
class _Member:
    """A member of a family."""

    family: Family
    name: str = BASE

    @property
    def digest(self) -> str:
        return self.family.digests[self.name]

    def model(self, dtype: torch.dtype, device: str) -> PreTrainedModel:
        """The model, without gradients; tensors of the same dtype and device are not copied."""
        state = {n: t.to(device, dtype) for n, t in self.family.states[self.name].items()}
        return model_around(self.family.config, state, dtype).to(device).requires_grad_(False)


@dataclass(frozen=True, slots=True)
class _Opened:
    """What is healed, and towards what."""

    folder: Path  # the model's
    student: _Member  # in the dtype that it is stored in
    teacher: _Member
    tailoring: Tailoring | None
    layers: tuple[int, ...] | None  # that are trained; all if None


def work_folder(out: Path) -> Path:
    """What a stop leaves of a healing that writes to `out`; removed at its end."""
    return out.with_name(f"{out.name}.healing")


def heal(  # noqa: PLR0913  # what may be said of a healing
    model: Path,
    texts: Sequence[Path],
    teacher: str,
    out: Path,
    *,
    training: Training,
    at_cuts: bool = False,
    run: Path | None = None,
    overwrite: bool = False,
    on_message: Callable[[str], None] = lambda _: None,
    on_step: Callable[[int, int], None] = lambda _step, _steps: None,
) -> HealingFacts:
    """Train a model on texts, towards a teacher too, and write it as a checkpoint.

    Args:
        model: An exported folder; or a run's, whose result is exported first.
        texts: Files as `calibration.texts` names them.
        teacher: A member's name, if there is a run; or a folder, a hub id or a GGUF file.
        out: The new folder; one that this program wrote is replaced.
        training: How.
        at_cuts: Train only the layers before and after cuts.
        run: The run that the model came from, if `model` is a folder.
        overwrite: Whether files that are not ours may be replaced.
        on_message: Called with a sentence before what takes long.
        on_step: Called with the steps done and those in all.

    Raises:
        UserError: The model, the teacher or the texts can't be used, or nothing can be written.
    """
    for path in texts:
        if not path.is_file():
            raise ConfigError(f"--texts: {path}: no such file")
    keep = [model, *texts]
    refuse_folder(out, overwrite=overwrite, keep=keep)
    work = work_folder(out)
    device = device_of("auto")
    dtype = dtype_of("auto", device)
    opened = _opened(model, run, teacher, work, dtype, at_cuts, on_message)
    student, taught = opened.student, opened.teacher
    if training.length > (known := max_length_of(student.family, None)):
        raise ConfigError(f"--length: is {training.length:,}, but the model was made for {known:,}")
    limits = {"n_tokens": training.n_tokens, "length": training.length, "seed": training.seed}
    rows = read_healing_texts(texts, student.family.tokenizer, **limits)
    digests = {"model": student.digest, "teacher": taught.digest, "texts": rows.digest}
    others = {"layers": opened.layers, "training": asdict(training), "dtype": str(dtype)}
    _refuse_other(work, json.loads(json.dumps(digests | others)))
    trained, knows = student.model(dtype, device), taught.model(dtype, device)
    before, best = (held_out_loss(each, rows.held_out) for each in (trained, knows))
    n_held_out = len(rows.held_out) * training.length
    on_message(
        f"{training.n_steps} steps of {training.step_tokens:,} tokens; on {n_held_out:,} others "
        f"{before:.3f} nats a token, the teacher {best:.3f}"
    )
    changes = trained_changes(
        trained,
        knows if training.kl_weight else None,
        rows.train,
        training,
        layers=opened.layers,
        folder=work,
        on_step=on_step,
    )
    healed = with_changes(student.family, changes)
    facts = HealingFacts(
        model=str(model),
        teacher=taught.family.paths[taught.name],
        digests=digests,
        files=rows.files,
        layers=opened.layers,
        training=training,
        n_held_out=n_held_out,
        before=before,
        after=held_out_loss(_Member(healed).model(dtype, device), rows.held_out),
        teachers=best,
        tailoring=opened.tailoring,
    )
    card = opened.folder / "README.md"
    text = healed_card(card.read_text("utf-8") if card.is_file() else "", facts, out.name)
    keep += [work, *paths_only(taught.family.paths)]
    write_healed(healed, facts, out, card=text, overwrite=overwrite, keep=keep)
    shutil.rmtree(work)
    return facts


def _opened(  # noqa: PLR0913, PLR0917  # the arguments of `heal`
    model: Path,
    run: Path | None,
    teacher: str,
    work: Path,
    dtype: torch.dtype,
    at_cuts: bool,
    on_message: Callable[[str], None],
) -> _Opened:
    """Load the model and its teacher, and refuse those that do not go together."""
    if (model / RECORD).is_file() or ladder_of(model):
        run = model
    folder, record = model, None if run is None else read_run(run)
    members = {} if record is None else _member_specs(record)
    if teacher not in members and "/" not in teacher and not Path(teacher).exists():
        if members:
            raise ConfigError(f"--teacher: {unknown('member', teacher, members)}")
        raise ConfigError(
            f"--teacher: {teacher!r} is no folder or file; to name a member, give its run with "
            "--run"
        )
    if model == run:
        assert record is not None, "read above"
        folder = _exported(record, work, on_message)
    on_message("loading the model and its teacher ...")
    student = _loaded(folder)
    layers, tailoring = None, _tailoring_of(folder)
    if at_cuts:
        if tailoring is None:
            raise ConfigError(f"--layers cuts: {folder} has no tailoring.yaml; use --layers all")
        layers = layers_at_cuts(tailoring, _n_layers_before(tailoring, record))
    taught = _teacher(teacher, members, dtype)
    _refuse_unlike(folder, student, teacher, taught.family)
    return _Opened(folder, _Member(student), taught, tailoring, layers)


def _member_specs(record: RunRecord) -> dict[str, MemberSpec]:
    family = recorded_config(record).family
    return {BASE: family.base, **family.variants}


def _exported(record: RunRecord, work: Path, on_message: Callable[[str], None]) -> Path:
    """Export the result of a run into the working folder, unless a killed start did so.

    Raises:
        ExportError: The killed start was that of another result.
    """
    folder = work / "model"
    if not folder.is_dir():
        on_message(f"exporting the result of {record.folder} ...")
        export(record.folder, folder, ExportOptions.of("hf", folder))
    elif record.result is not None and _tailoring_of(folder) != record.result:
        raise ExportError(
            f"{work}: was begun with another result than that of {record.folder}; remove the "
            "folder, or give -o another one"
        )
    return folder


def _loaded(folder: Path) -> Family:
    """The model in the dtype that it is stored in."""
    path = folder / "config.json"
    if not path.is_file():
        raise ConfigError(
            f"{folder}: has no config.json; name a folder that `export` made, or a run"
        )
    stored = json.loads(path.read_text(encoding="utf-8"))
    name = str(stored.get("dtype") or stored.get("torch_dtype") or "float32")
    return load_family(MemberSpec(path=str(folder)), {}, dtype=dtype_of(name, "cpu"))


def _teacher(teacher: str, members: dict[str, MemberSpec], dtype: torch.dtype) -> _Member:
    if teacher not in members:
        try:
            return _Member(load_family(MemberSpec(path=teacher), {}, dtype=dtype))
        except FamilyError as error:  # which calls it a base
            text = "; ".join(error.problems).removeprefix("member 'base': ")
            raise ConfigError(f"--teacher: {text}") from None
    variants = {} if teacher == BASE else {teacher: members[teacher]}
    return _Member(load_family(members[BASE], variants, dtype=dtype), teacher)


def _tailoring_of(folder: Path) -> Tailoring | None:
    path = folder / "tailoring.yaml"
    return Tailoring.load(path) if path.is_file() else None


def _n_layers_before(tailoring: Tailoring, record: RunRecord | None) -> int:
    """How many layers the members have; without a run, up to the last layer that is named."""
    if record is not None:
        return record.header.family.n_layers
    ends = (spec.refit_to or spec.position + 1 for spec in tailoring.layers)
    return max(ends)


def _refuse_unlike(folder: Path, student: Family, teacher: str, other: Family) -> None:
    """Refuse a teacher with other tokens: its predictions would be of other texts."""
    sizes = [int(family.config.vocab_size) for family in (student, other)]
    if sizes[0] != sizes[1]:
        raise ConfigError(
            f"--teacher: {teacher} has a vocabulary of {sizes[1]:,} tokens and {folder} one of "
            f"{sizes[0]:,}; name a teacher of the same family"
        )
    ours, theirs = (family.tokenizer.get_vocab() for family in (student, other))
    if any(theirs.get(token, number) != number for token, number in ours.items()):
        raise ConfigError(
            f"--teacher: the tokenizer of {teacher} gives other numbers to tokens than that of "
            f"{folder}; name a teacher of the same family"
        )


def _refuse_other(work: Path, settings: dict[str, object]) -> None:
    """Write down what is trained; refuse to go on with what was begun otherwise."""
    path = work / _SETTINGS
    if not path.is_file():
        work.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(settings, indent=2) + "\n")
        return
    begun = json.loads(path.read_text(encoding="utf-8"))
    if unlike := [key for key, value in settings.items() if begun.get(key) != value]:
        raise ExportError(
            f"{work}: was begun with another {' and '.join(unlike)}; give what it was begun with, "
            "or remove the folder"
        )
