"""The closed form, against least squares by another road."""

import torch
from torch import Tensor

from gptailor.repair.regression import fitted_change

F, H = 12, 5
LAMBDAS = (0.03, 0.1, 0.3, 1.0, 3.0)
Batch = tuple[Tensor, Tensor, Tensor, Tensor]


def drawn(seed: int, n_tokens: int, *, noise: float, shift: float = 0.0) -> Batch:
    """Inputs, what is missing, weights, the held-out: linear in the inputs but for noise."""
    generator = torch.Generator().manual_seed(seed)
    truth = torch.randn(F, H, generator=torch.Generator().manual_seed(99))
    inputs = torch.randn(n_tokens, F, generator=generator)
    missing = inputs @ truth + noise * torch.randn(n_tokens, H, generator=generator) + shift
    weights = torch.rand(n_tokens, generator=generator) + 0.1
    return inputs, missing, weights, torch.arange(n_tokens) % 8 == 2


def solved(batches: list[Batch], share: float) -> Tensor:
    """Least squares of the rows and, below them, of the ridge, (F, H) in float64."""
    inputs, missing, weights = (
        torch.cat([batch[part].double() for batch in batches]) for part in range(3)
    )
    root = weights.sqrt()[:, None]
    ridge = share * (root * inputs).square().sum() / F  # of the mean of the Gram matrix' diagonal
    rows = torch.cat([root * inputs, ridge.sqrt() * torch.eye(F, dtype=torch.float64)])
    targets = torch.cat([root * missing, torch.zeros(F, H, dtype=torch.float64)])
    return torch.linalg.lstsq(rows, targets).solution


def parts(batches: list[Batch]) -> tuple[list[Batch], list[Batch]]:
    """The tokens that are not held out, and those that are."""
    fit = [tuple(each[~batch[3]] for each in batch) for batch in batches]
    held = [tuple(each[batch[3]] for each in batch) for batch in batches]
    return fit, held  # type: ignore[return-value]


def error(batches: list[Batch], change: Tensor) -> float:
    return sum(
        float((w[:, None] * (m - i @ change).square()).sum())
        for i, m, w, _ in (tuple(each.double() for each in batch) for batch in batches)
    )


def best_share(batches: list[Batch]) -> float:
    """The largest with 95 % of the best's gain on held-out tokens."""
    fit, held = parts(batches)
    none = error(held, torch.zeros(F, H, dtype=torch.float64))
    gains = {share: none - error(held, solved(fit, share)) for share in LAMBDAS}
    return max(share for share, gain in gains.items() if gain >= 0.95 * max(gains.values()))


def test_the_change_is_least_squares_with_the_largest_ridge_that_fits_well() -> None:
    like = torch.zeros(H, F)
    chosen = set()
    for noise, n_tokens in ((0.1, 400), (3.0, 100), (5.0, 400), (5.0, 24)):
        batches = [drawn(seed, n_tokens, noise=noise) for seed in range(3)]
        share = best_share(batches)
        chosen.add(share)
        change = fitted_change(iter(batches), like)
        assert change.shape == like.shape
        assert change.dtype == torch.float32
        torch.testing.assert_close(change.T.double(), solved(batches, share), rtol=1e-4, atol=1e-4)
    assert chosen == {0.1, 0.3, 1.0}


def test_a_refit_fits_what_no_map_behind_the_layer_can() -> None:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(200, F, generator=generator)
    own = torch.randn(F, H, generator=generator)
    missing = inputs @ torch.randn(F, H, generator=generator)
    weights, none = torch.ones(200), torch.zeros(200, dtype=torch.bool)
    change = fitted_change([(inputs, missing, weights, none)], own.T, ridges=[1e-7]).T
    left = (missing - inputs @ change).norm() / missing.norm()
    added = inputs @ own  # ReplaceMe's T: what is added becomes added T
    mapped = added @ torch.linalg.lstsq(added, added + missing).solution
    assert float(left) < 1e-4
    assert float((added + missing - mapped).norm() / missing.norm()) > 0.3


def test_inputs_that_tell_nothing_change_nothing_on_tokens_held_out() -> None:
    zeros = 0
    for seed in range(10):
        generator = torch.Generator().manual_seed(seed)
        inputs = torch.randn(32, F, generator=generator)
        missing = torch.randn(32, H, generator=generator)
        batch = [(inputs, missing, torch.ones(32), torch.arange(32) % 8 == 7)]
        fit, held = parts(batch)
        change = fitted_change(batch, torch.zeros(H, F))
        none = error(held, torch.zeros(F, H, dtype=torch.float64))
        useless = min(error(held, solved(fit, share)) for share in LAMBDAS) >= none
        assert (not change.any()) == useless
        zeros += useless
    assert zeros >= 5


def test_without_a_token_held_out_nothing_is_changed() -> None:
    *tokens, held_out = drawn(0, 7, noise=0.0)
    batch = (*tokens, torch.zeros_like(held_out))
    assert not fitted_change([batch], torch.zeros(H, F)).any()


def test_dead_inputs_and_no_inputs_at_all_are_survived() -> None:
    inputs, missing, weights, held_out = drawn(0, 64, noise=0.1)
    inputs[:, 3] = 0.0
    change = fitted_change([(inputs, missing, weights, held_out)], torch.zeros(H, F))
    assert change.isfinite().all()
    assert not change[:, 3].any()
    zeros = torch.zeros_like(inputs)
    assert not fitted_change([(zeros, missing, weights, held_out)], torch.zeros(H, F)).any()


def test_of_one_ridge_all_tokens_are_fitted() -> None:
    batches = [drawn(seed, 40, noise=1.0) for seed in range(3)]
    change = fitted_change(batches, torch.zeros(H, F), (0.1,))
    torch.testing.assert_close(change.T.double(), solved(batches, 0.1), rtol=1e-4, atol=1e-4)


def test_tokens_in_bfloat16_are_fitted_as_closely_as_they_are_known() -> None:
    batches = [
        (inputs.bfloat16(), missing, weights, held_out)
        for inputs, missing, weights, held_out in (drawn(seed, 400, noise=0.1) for seed in range(3))
    ]
    before = torch.get_float32_matmul_precision()
    change = fitted_change(batches, torch.zeros(H, F)).T.double()
    exact = solved(batches, best_share(batches))
    assert float((change - exact).norm() / exact.norm()) < 2**-8
    assert torch.get_float32_matmul_precision() == before
