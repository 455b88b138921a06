"""Train LoRA matrices of a model towards the next token and towards a teacher's predictions.

By PEFT and the Trainer of transformers, whose checkpoints make it resumable. The loss of a token is
``kl_weight * KL(teacher || student) + next_token_weight * -log p(next token)``, in nats.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from transformers import PreTrainedModel, Trainer, TrainerCallback, TrainingArguments
from transformers.pytorch_utils import Conv1D
from transformers.trainer_callback import PrinterCallback

from gptailor.core.repair import gaps_of
from gptailor.core.tailoring import Tailoring
from gptailor.errors import ConfigError
from gptailor.family.architecture import layers_path
from gptailor.heal.texts import Row

__all__ = ["Training", "held_out_loss", "layers_at_cuts", "trained_changes"]

_FORWARD_TOKENS = 1024  # of one forward: its logits and the teacher's are held at a time
_WARMUP = 0.05  # share of the steps in which the learning rate rises; then it falls to 0
_SAVES = 20  # checkpoints of a training, so that a kill loses a twentieth of it
_STATE = "trainer_state.json"  # what the Trainer writes last into a checkpoint


@dataclass(frozen=True, slots=True)
class Training:
    """How a model is trained."""

    n_tokens: int = 150_000  # trained on in all; the texts are read again if they have fewer
    length: int = 256  # tokens of a row
    batch_tokens: int = 1024  # of one step
    rank: int = 16
    learning_rate: float = 3e-4  # the highest
    kl_weight: float = 1.0
    next_token_weight: float = 0.0
    seed: int = 0

    @property
    def rows_a_forward(self) -> int:
        """Rows of one forward."""
        return max(1, min(_FORWARD_TOKENS, self.batch_tokens) // self.length)

    @property
    def forwards_a_step(self) -> int:
        """Forwards of one step."""
        return max(1, self.batch_tokens // (self.rows_a_forward * self.length))

    @property
    def step_tokens(self) -> int:
        """Tokens of one step."""
        return self.forwards_a_step * self.rows_a_forward * self.length

    @property
    def n_steps(self) -> int:
        """Steps in all."""
        return max(1, self.n_tokens // self.step_tokens)


def layers_at_cuts(tailoring: Tailoring, n_layers: int) -> tuple[int, ...]:
    """Indices of the layers of a tailoring before and after each of its cuts.

    Raises:
        ConfigError: No layer is beside a cut, which are not known where layers are not in order or
            one is merged from positions of several members.
    """
    near = {
        index
        for cut in gaps_of(tailoring, n_layers)
        for index in ((-1, 0) if cut.before is None else (cut.before, cut.before + 1))
        if 0 <= index < len(tailoring.layers)
    }
    if not near:
        raise ConfigError("--layers cuts: no layer of this model is beside a cut; use --layers all")
    return tuple(sorted(near))


def trained_changes(  # noqa: PLR0913  # two models, what to train and on what
    model: PreTrainedModel,
    teacher: PreTrainedModel | None,
    rows: Sequence[Row],
    training: Training,
    *,
    layers: Sequence[int] | None,
    folder: Path,
    on_step: Callable[[int, int], None] = lambda _step, _steps: None,
) -> dict[str, Tensor]:
    """Train, or go on with a training; return what to add to each weight, float32, on the CPU.

    The weights of `model` are not changed, but LoRA matrices stay around them. The keys are the
    weights' names in the model.

    Args:
        model: Without gradients.
        teacher: None where `kl_weight` is 0.
        rows: Of equal length.
        training: How.
        layers: Indices of the decoder layers that are trained; all if None.
        folder: Of the checkpoints; those in it are gone on from.
        on_step: Called with the steps done, and with those in all.
    """
    config = LoraConfig(
        r=training.rank,
        lora_alpha=2 * training.rank,
        target_modules=_linear_maps(model, layers),
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of libraries about each other
        torch.manual_seed(training.seed)
        adapted = get_peft_model(model, config)
        trainer = Trainer(
            model=adapted,
            args=_arguments(training, folder),
            train_dataset=[
                {
                    "input_ids": row.ids,
                    "position_ids": row.positions,
                    "labels": (row.ids, row.positions),  # the teacher needs both
                }
                for row in rows
            ],
            compute_loss_func=_loss(teacher, training),
            callbacks=[_Steps(on_step)],
        )
        trainer.remove_callback(PrinterCallback)
        if teacher is not None:
            teacher.to(trainer.args.device)
        trainer.train(resume_from_checkpoint=_last_checkpoint(folder))
        return {
            f"{name.removeprefix('base_model.model.')}.weight": _delta(module)
            for name, module in adapted.named_modules()
            if isinstance(module, LoraLayer)
        }


@torch.inference_mode()
def held_out_loss(model: PreTrainedModel, rows: Sequence[Row]) -> float:
    """Mean nats a token of the next token, over rows of equal length."""
    total, device, length = 0.0, model.device, len(rows[0].ids)
    n = max(1, _FORWARD_TOKENS // length)
    for start in range(0, len(rows), n):
        some = rows[start : start + n]
        tokens = torch.tensor([row.ids for row in some], device=device)  # (B, T)
        positions = torch.tensor([row.positions for row in some], device=device)
        logits = _logits(model, tokens, positions)
        for found, wanted in zip(logits, tokens, strict=True):  # a row at a time, for memory
            total += float(
                nn.functional.cross_entropy(found[:-1].float(), wanted[1:], reduction="sum")
            )
    return total / (len(rows) * (length - 1))


def _logits(model: PreTrainedModel, tokens: Tensor, positions: Tensor) -> Tensor:
    """Of tokens and their positions in their texts, (B, T) both, to (B, T, V)."""
    logits: Tensor = model(input_ids=tokens, position_ids=positions, use_cache=False).logits
    return logits


def _loss(teacher: PreTrainedModel | None, training: Training) -> Callable[..., Tensor]:
    """The loss as the Trainer asks for it; its labels are tokens and positions of whole rows."""

    def loss(
        outputs: Mapping[str, Tensor], labels: Tensor, num_items_in_batch: Tensor | None = None
    ) -> Tensor:
        tokens, positions = labels.unbind(1)  # (B, 2, T) to (B, T) each
        taught: Iterator[Tensor | None] = iter([None] * len(tokens))
        if teacher is not None:
            with torch.no_grad():
                taught = iter(_logits(teacher, tokens, positions))
        total = outputs["logits"].new_zeros((), dtype=torch.float32)
        for found, wanted, known in zip(outputs["logits"], tokens, taught, strict=True):
            logp = found[:-1].float().log_softmax(-1)  # (T - 1, V)
            if training.next_token_weight:
                nll = nn.functional.nll_loss(logp, wanted[1:], reduction="sum")
                total = total + training.next_token_weight * nll
            if known is not None:
                wished = known[:-1].float().log_softmax(-1)
                divergence = nn.functional.kl_div(logp, wished, reduction="sum", log_target=True)
                total = total + training.kl_weight * divergence
        n_labels = labels.numel() if num_items_in_batch is None else num_items_in_batch
        return total * 2 / n_labels

    return loss


class _Steps(TrainerCallback):  # type: ignore[misc]  # transformers is untyped here
    """Reports steps to a function."""

    def __init__(self, on_step: Callable[[int, int], None]) -> None:
        self._on_step = on_step

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Report where the training goes on."""
        self._on_step(state.global_step, state.max_steps)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Report a step."""
        self._on_step(state.global_step, state.max_steps)


def _arguments(training: Training, folder: Path) -> TrainingArguments:
    return TrainingArguments(
        output_dir=str(folder),
        max_steps=training.n_steps,
        per_device_train_batch_size=training.rows_a_forward,
        gradient_accumulation_steps=training.forwards_a_step,
        learning_rate=training.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=round(_WARMUP * training.n_steps),
        weight_decay=0.0,
        seed=training.seed,
        save_steps=max(1, training.n_steps // _SAVES),
        save_total_limit=2,
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
        log_level="error",
        dataloader_pin_memory=False,
        dataloader_drop_last=True,
        remove_unused_columns=False,
    )


def _linear_maps(model: PreTrainedModel, layers: Sequence[int] | None) -> list[str]:
    """Names of the linear maps inside decoder layers."""
    path = layers_path(model)
    stack = model.get_submodule(path)
    assert isinstance(stack, nn.ModuleList), "decoder layers are a list"
    chosen = range(len(stack)) if layers is None else layers
    return [
        f"{path}.{index}.{name}"
        for index in chosen
        for name, module in stack[index].named_modules()
        if isinstance(module, nn.Linear | Conv1D)
    ]


def _delta(module: LoraLayer) -> Tensor:
    delta: Tensor = module.get_delta_weight("default")
    return delta.detach().float().cpu()


def _last_checkpoint(folder: Path) -> str | None:
    """The checkpoint with the most steps that is whole."""
    whole = [path.parent for path in folder.glob(f"checkpoint-*/{_STATE}")]
    last = max(whole, key=lambda path: int(path.name.partition("-")[2]), default=None)
    return None if last is None else str(last)
