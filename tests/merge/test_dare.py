import pytest
import torch
from torch import Tensor

from gptailor.merge import merge

RECORDED = [1, 0, 1, 1, 1, 0, 1, 0, 1, 0, 1, 1]  # of seed 0 at density 0.5
ZEROS, ONES = torch.zeros(400, 250), torch.ones(400, 250)


def sampled(name: str = "dare_linear", **params: float) -> Tensor:
    """Two sources: a bit of each mask can be read off the result, in units of 1 / density."""
    density = params.setdefault("density", 0.5)
    merged = merge(name, [ONES, 10 * ONES], base=ZEROS, scale=1.0, **params)
    return (merged * density).round()


@pytest.mark.parametrize("density", [0.1, 0.5, 0.9])
def test_the_share_kept_is_the_density_and_the_mean_is_that_of_the_difference(
    density: float,
) -> None:
    seen = sampled(density=density)
    for n in ((seen % 10 == 1), (seen >= 10)):
        assert n.float().mean().item() == pytest.approx(density, abs=0.01)
    merged = merge("dare_linear", [ONES, 10 * ONES], base=ZEROS, scale=1.0, density=density)
    assert merged.mean().item() == pytest.approx(11.0, rel=0.03)


def test_sources_are_masked_independently() -> None:
    seen = sampled()
    assert (seen == 11).float().mean().item() == pytest.approx(0.25, abs=0.01)


def test_the_seed_decides_the_masks() -> None:
    assert torch.equal(sampled(seed=3), sampled(seed=3))
    assert torch.equal(sampled(seed=3.0), sampled(seed=3))
    assert not torch.equal(sampled(seed=3), sampled(seed=4))


def test_kept_entries_are_divided_by_the_density() -> None:
    merged = merge("dare_linear", [ONES, ZEROS], base=ZEROS, scale=0.5, density=0.25)
    assert sorted(merged.unique().tolist()) == [0.0, 2.0]


def test_the_masks_are_those_of_every_release() -> None:
    # a recorded value: a change here would change every DARE tailoring already written down
    merged = merge("dare_linear", [torch.ones(12), torch.zeros(12)], base=torch.zeros(12), scale=1)
    assert (merged / 2).int().tolist() == RECORDED


def test_with_every_entry_kept_ties_adds_what_agrees() -> None:
    base = torch.tensor([1.0, 1.0, 1.0])
    first, second = base + torch.tensor([2.0, 2.0, 1.0]), base + torch.tensor([-1.0, 3.0, -1.0])
    merged = merge("dare_ties", [first, second], base=base, density=1.0, scale=0.5)
    # sums 1, 5, 0: plus everywhere; -1 disagrees twice; 2, 2 + 3, 1 are added, not averaged
    assert merged.tolist() == [2.0, 3.5, 1.5]


def test_ties_draws_the_same_masks_as_linear() -> None:
    assert torch.equal(sampled("dare_ties", seed=5), sampled("dare_linear", seed=5))


@pytest.mark.parametrize("name", ["dare_linear", "dare_ties"])
@pytest.mark.parametrize("density", [1e-45, 1e-30, 1e-7])
def test_a_density_near_zero_gives_no_nan(name: str, density: float) -> None:
    merged = merge(name, [ONES, -ONES], base=ZEROS, density=density)
    assert torch.isfinite(merged).all()
