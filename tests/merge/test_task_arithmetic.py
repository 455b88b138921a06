import torch

from gptailor.merge import merge


def test_the_worked_out_value() -> None:
    base = torch.tensor([1.0, 2.0, -3.0])
    math, code = torch.tensor([2.0, 2.0, -1.0]), torch.tensor([1.0, 4.0, -4.0])
    # differences (1, 0, 2) and (0, 2, -1): their sum is (1, 2, 1)
    expected = torch.tensor([1.5, 3.0, -2.5])
    assert torch.equal(merge("task_arithmetic", [math, code], base=base, scale=0.5), expected)


def test_half_precision_sources_are_summed_without_rounding_between() -> None:
    # 256 + 1 is not a bfloat16: summed in bfloat16, the small differences would vanish
    base = torch.tensor([256.0], dtype=torch.bfloat16)
    small = [torch.tensor([258.0], dtype=torch.bfloat16)] * 3
    assert merge("task_arithmetic", small, base=base, scale=0.5).item() == 259.0
