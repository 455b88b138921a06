"""Route float32 nn.Linear to oneDNN on x86 processors that are not Intel's.

There torch's own choice, MKL, is slower (docs/decisions/0014).
"""

import platform

import torch
from torch import Tensor, nn

from gptailor.engine.cpu.processor import is_intel

__all__ = ["OnednnLinear", "speed_up_linear"]


class OnednnLinear(nn.Linear):
    """A linear layer that shares its parameters; oneDNN computes its float32 products."""

    def __init__(self, linear: nn.Linear) -> None:
        shape = (linear.in_features, linear.out_features)
        super().__init__(*shape, bias=linear.bias is not None, device="meta")
        self.weight, self.bias = linear.weight, linear.bias
        self.train(linear.training)

    def forward(self, input: Tensor) -> Tensor:
        """(..., in_features) -> (..., out_features)."""
        if input.dtype != torch.float32 or torch.is_grad_enabled():  # it has no gradients
            return super().forward(input)
        result: Tensor = torch.ops.mkldnn._linear_pointwise(
            input, self.weight, self.bias, "none", [], ""
        )
        return result


def speed_up_linear(model: nn.Module, device: torch.device) -> None:
    """Replace a model's linear layers by `OnednnLinear` on processors where it is faster.

    It depends on the machine alone, never on a measurement, so scores are the same in every run.
    """
    x86 = platform.machine().lower() in ("x86_64", "amd64")
    built_in = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    has_product = built_in and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    if device.type != "cpu" or not x86 or is_intel() or not has_product:
        return
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if type(child) is nn.Linear:  # a subclass keeps its own forward
                setattr(parent, name, OnednnLinear(child))
