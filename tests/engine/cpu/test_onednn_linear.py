"""Linear layers that oneDNN multiplies give what torch's own give, on any shape."""

import copy

import pytest
import torch
from torch import Tensor, nn

from gptailor.engine.cpu import onednn_linear
from gptailor.engine.cpu.onednn_linear import OnednnLinear, speed_up_linear

CPU = torch.device("cpu")


@pytest.fixture(autouse=True, params=[True, False], ids=["Intel", "another"])
def processors(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways are taken on any machine: neither needs the processor that it is faster on."""
    monkeypatch.setattr(onednn_linear, "is_intel", lambda: request.param)


def both(layer: nn.Module, given: Tensor) -> tuple[Tensor, Tensor]:
    faster = nn.Sequential(copy.deepcopy(layer))
    speed_up_linear(faster, CPU)
    with torch.inference_mode():
        return faster(given), layer(given)


@pytest.mark.parametrize(
    "shape", [(8,), (1, 8), (0, 8), (2, 0, 8), (300, 8), (3, 1, 8), (2, 3, 5, 8)]
)
@pytest.mark.parametrize("bias", [True, False])
def test_any_shape(shape: tuple[int, ...], bias: bool) -> None:
    torch.manual_seed(0)
    ours, torchs = both(nn.Linear(8, 6, bias=bias), torch.randn(shape))
    assert ours.shape == torchs.shape
    torch.testing.assert_close(ours, torchs, atol=1e-6, rtol=1e-5)


def test_inputs_and_weights_that_lie_across() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(8, 6)
    layer.weight = nn.Parameter(torch.randn(8, 6).T)
    ours, torchs = both(layer, torch.randn(3, 5, 16)[..., ::2])
    torch.testing.assert_close(ours, torchs, atol=1e-6, rtol=1e-5)


def test_what_is_not_finite_stays_so() -> None:
    given = torch.ones(2, 8)
    given[0, 3] = float("nan")
    ours, _ = both(nn.Linear(8, 6), given)
    assert ours[0].isnan().all()
    assert ours[1].isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_dtypes_run_as_ever(dtype: torch.dtype) -> None:
    ours, torchs = both(nn.Linear(8, 6, dtype=dtype), torch.randn(5, 8, dtype=dtype))
    assert torch.equal(ours, torchs)


def test_a_layer_with_a_forward_of_its_own_keeps_it() -> None:
    class Doubled(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            return 2 * super().forward(input)

    ours, doubled = both(Doubled(8, 6), torch.randn(5, 8))
    assert torch.equal(ours, doubled)


def test_weights_stay_the_tensors_that_they_were() -> None:
    model = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 2))
    before = dict(model.named_parameters())
    speed_up_linear(model, CPU)
    assert all(after is before[name] for name, after in model.named_parameters())


def test_other_devices_are_left_alone() -> None:
    model = nn.Sequential(nn.Linear(8, 6, device="meta"))
    speed_up_linear(model, torch.device("cuda"))
    assert type(model[0]) is nn.Linear


def test_a_layer_is_replaced_in_the_model_and_left_as_it_was_elsewhere() -> None:
    layer = nn.Linear(8, 6)
    model = nn.Sequential(layer)
    speed_up_linear(model, CPU)
    assert type(layer) is nn.Linear
    assert model[0] is layer or type(model[0]) is OnednnLinear
