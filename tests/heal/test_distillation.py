"""Training towards a teacher: against the gradient by hand, stopped, and repeated."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from gptailor.core.tailoring import Tailoring
from gptailor.errors import ConfigError
from gptailor.heal.distillation import Training, held_out_loss, layers_at_cuts, trained_changes
from gptailor.heal.texts import Row

TOKENS = np.random.default_rng(0).integers(3, 320, size=(12, 8)).tolist()
TEXTS = (5, 3)  # tokens of the two texts in each row
POSITIONS = tuple(position for n in TEXTS for position in range(n))
ROWS = [Row(tuple(tokens), POSITIONS) for tokens in TOKENS]
PLAN = Training(n_tokens=192, length=8, batch_tokens=32, rank=2, learning_rate=1e-3)  # 6 steps


@pytest.fixture
def models(tiny_model: Callable[..., PreTrainedModel]) -> tuple[PreTrainedModel, PreTrainedModel]:
    return tiny_model("llama", num_hidden_layers=3), tiny_model("llama", seed=1)


def logits_of(model: PreTrainedModel, row: list[int]) -> Tensor:
    texts = torch.tensor([row]).split(TEXTS, dim=1)
    return torch.cat([model(text).logits[0] for text in texts])


def by_hand(model: PreTrainedModel, teacher: PreTrainedModel, kl: float, ce: float) -> Tensor:
    """The loss summed token by token, each text read alone."""
    total = torch.zeros(())
    for row in TOKENS:
        p = logits_of(teacher, row).softmax(-1).detach()
        q = logits_of(model, row).softmax(-1)
        for here, following in enumerate(row[1:]):
            total = total + kl * (p[here] * (p[here] / q[here]).log()).sum()
            total = total - ce * q[here, following].log()
    return total


@pytest.mark.parametrize(("kl", "ce"), [(1.0, 0.0), (0.0, 1.0)])
def test_a_step_goes_down_the_loss_that_is_summed_by_hand(
    models: tuple[PreTrainedModel, PreTrainedModel], tmp_path: Path, kl: float, ce: float
) -> None:
    student, teacher = models
    plan = Training(len(ROWS) * 8, 8, len(ROWS) * 8, 2, 1e-3, kl, ce)
    assert plan.n_steps == 1
    before = by_hand(student, teacher, kl, ce)
    before.backward()
    slopes = {name: p.grad for name, p in student.named_parameters() if p.ndim == 2}
    weights = {name: p.detach().clone() for name, p in student.named_parameters()}
    student.zero_grad()
    student.requires_grad_(False)
    changes = trained_changes(
        student, teacher if kl else None, ROWS, plan, layers=(0, 2), folder=tmp_path
    )
    assert len(changes) == 2 * 7
    assert {name.split(".")[2] for name in changes} == {"0", "2"}
    for name, change in changes.items():
        assert float((change * slopes[name]).sum()) < 0, name
    fresh = type(teacher)(student.config).eval()
    fresh.load_state_dict({n: w + changes.get(n, 0.0) for n, w in weights.items()})
    assert by_hand(fresh, teacher, kl, ce) < before


def test_a_student_that_predicts_as_its_teacher_is_not_changed(
    tiny_model: Callable[..., PreTrainedModel], tmp_path: Path
) -> None:
    twins = [tiny_model("llama", num_hidden_layers=2).requires_grad_(False) for _ in range(2)]
    plan = Training(64, 8, 64, 2, 1e-3)
    changes = trained_changes(twins[0], twins[1], ROWS, plan, layers=None, folder=tmp_path)
    assert max(float(change.abs().max()) for change in changes.values()) < 1e-4


def test_a_training_that_was_stopped_ends_as_one_that_was_not(
    tiny_model: Callable[..., PreTrainedModel], tmp_path: Path
) -> None:
    def train(folder: str, on_step: Callable[[int, int], None]) -> dict[str, Tensor]:
        student = tiny_model("llama", num_hidden_layers=2).requires_grad_(False)
        teacher = tiny_model("llama", seed=1)
        return trained_changes(
            student, teacher, ROWS, PLAN, layers=None, folder=tmp_path / folder, on_step=on_step
        )

    def stop(step: int, steps: int) -> None:
        if step == 4:
            raise KeyboardInterrupt

    steps: list[tuple[int, int]] = []
    whole = train("whole", lambda *step: steps.append(step))
    assert steps == [(n, 6) for n in range(7)]
    with pytest.raises(KeyboardInterrupt):
        train("stopped", stop)
    last = max((tmp_path / "stopped").glob("checkpoint-*"), key=lambda path: path.name)
    (last / "trainer_state.json").unlink()  # killed while it was being written
    steps.clear()
    again = train("stopped", lambda *step: steps.append(step))
    assert steps[0] == (2, 6)
    for name, change in whole.items():
        assert torch.equal(change, again[name]), name


def test_the_held_out_loss_is_the_models_own(tiny_model: Callable[..., PreTrainedModel]) -> None:
    model = tiny_model("llama")
    with torch.no_grad():
        found = torch.cat([logits_of(model, row)[:-1] for row in TOKENS])
    wanted = torch.nn.functional.cross_entropy(found, torch.tensor(TOKENS)[:, 1:].flatten())
    assert held_out_loss(model, ROWS) == pytest.approx(float(wanted), rel=1e-5)


def test_layers_at_cuts_are_those_before_and_after_each() -> None:
    layers = Tailoring.whole("base", 9).layers
    cut = Tailoring((layers[1], layers[2], layers[3], layers[6], layers[7]))
    assert layers_at_cuts(cut, 9) == (0, 2, 3, 4)
    with pytest.raises(ConfigError, match="no layer of this model is beside a cut"):
        layers_at_cuts(Tailoring(layers), 9)
