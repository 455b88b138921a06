import pytest
import torch

from gptailor.merge import merge


def test_the_worked_out_value() -> None:
    base = torch.full((5,), 1.0)
    math = base + torch.tensor([9.0, -4.0, 3.0, 2.0, 0.1])
    code = base + torch.tensor([1.0, -8.0, 0.1, 2.0, 4.0])
    # gamma 0.2 drops 9 and -8; density 0.4 keeps -4, 3 and 4, 2; the sums are scaled by a half
    expected = base + 0.5 * torch.tensor([0.0, -4.0, 3.0, 2.0, 4.0])
    merged = merge("breadcrumbs", [math, code], base=base, density=0.4, gamma=0.2, scale=0.5)
    assert torch.equal(merged, expected)


@pytest.mark.parametrize(
    ("density", "gamma", "kept"),
    [
        (0.5, 0.0, range(6, 11)),
        (0.5, 0.2, range(4, 9)),
        (0.5, 0.19, range(5, 10)),
        (0.5, 0.9, range(1, 6)),  # the smallest half is kept rather than fewer
        (1.0, 1.0, range(1, 11)),
        (0.09, 0.0, ()),  # less than one entry is none
        (0.0, 0.0, ()),
    ],
)
def test_density_and_gamma_count_entries(density: float, gamma: float, kept: range) -> None:
    source = torch.arange(1.0, 11.0)
    merged = merge(
        "breadcrumbs",
        [source, torch.zeros(10)],
        base=torch.zeros(10),
        density=density,
        gamma=gamma,
        scale=1.0,
    )
    assert [int(value) for value in merged if value] == list(kept)
