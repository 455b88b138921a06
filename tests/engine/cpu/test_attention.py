"""Attention by the engine is attention: held against its definition, head by head, in float64."""

import math

import pytest
import torch
from packages import run_python
from torch import Tensor
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    LlamaConfig,
    LlamaForCausalLM,
)

from gptailor.engine.cpu import attention
from gptailor.engine.cpu.attention import speed_up_attention

CPU = torch.device("cpu")
N_ROWS, N_TOKENS = 5, 9
OURS = "gptailor"


@pytest.fixture(autouse=True, params=[True, False], ids=["AMX", "no AMX"])
def processors(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways are taken on any machine: neither needs the processor that it is faster on."""
    monkeypatch.setattr(attention, "has_bfloat16_tiles", lambda: request.param)


def slow(query: Tensor, key: Tensor, value: Tensor, seen: Tensor, scaling: float) -> Tensor:
    """(B, T, N, E) in float64, one head of one row after the other."""
    shared = query.shape[1] // key.shape[1]
    rows = []
    for row in range(len(query)):
        heads = []
        for head in range(query.shape[1]):
            q = query[row, head].double()
            k, v = key[row, head // shared].double(), value[row, head // shared].double()
            scores = (q @ k.T * scaling).masked_fill(~seen[row], -math.inf)
            heads.append(scores.softmax(dim=-1) @ v)
        rows.append(torch.stack(heads, dim=1))
    return torch.stack(rows)


def drawn(
    dtype: torch.dtype, n_heads: int, n_keys: int, width: int, value_width: int
) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor, Tensor]:
    """Query, key and value as a layer hands them on, who sees whom, and that as a mask."""
    torch.manual_seed(0)
    shapes = ((n_heads, width), (n_keys, width), (n_keys, value_width))
    given = [torch.randn(N_ROWS, N_TOKENS, *shape).to(dtype).transpose(1, 2) for shape in shapes]
    seen = torch.rand(N_ROWS, N_TOKENS, N_TOKENS) < 0.5
    seen = seen.tril() | torch.eye(N_TOKENS, dtype=torch.bool)
    mask = torch.zeros(seen.shape, dtype=dtype).masked_fill_(~seen, torch.finfo(dtype).min)
    return (given[0], given[1], given[2]), seen, mask[:, None]


def model(dtype: torch.dtype) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=32,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    torch.manual_seed(0)
    return LlamaForCausalLM(config).to(dtype).eval()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("heads", [(4, 4, 8, 8), (6, 2, 8, 8), (4, 1, 8, 6)])
@pytest.mark.parametrize("scaling", [None, 0.7])
def test_it_is_attention(
    dtype: torch.dtype, heads: tuple[int, int, int, int], scaling: float | None
) -> None:
    given, seen, mask = drawn(dtype, *heads)
    ours, weights = attention._attend(torch.nn.Module(), *given, mask, scaling=scaling)
    truth = slow(*given, seen, heads[2] ** -0.5 if scaling is None else scaling)
    tolerance = {torch.float32: 1e-5, torch.bfloat16: 0.05, torch.float16: 0.01}[dtype]
    assert weights is None
    assert ours.dtype == dtype
    torch.testing.assert_close(ours.double(), truth, atol=tolerance, rtol=0)


def test_rows_that_do_not_fit_the_cache_together(monkeypatch: pytest.MonkeyPatch) -> None:
    given, _, mask = drawn(torch.bfloat16, 6, 2, 8, 8)
    whole, _ = attention._attend(torch.nn.Module(), *given, mask)
    monkeypatch.setattr(attention, "_CACHED_BYTES", 2 * 6 * N_TOKENS**2 * 2)
    parts, _ = attention._attend(torch.nn.Module(), *given, mask)
    assert torch.equal(parts, whole)


def test_a_row_too_long_to_keep_its_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    given, seen, mask = drawn(torch.bfloat16, 6, 2, 8, 8)
    monkeypatch.setattr(attention, "_MOST_BYTES", 1)
    ours, _ = attention._attend(torch.nn.Module(), *given, mask)
    torch.testing.assert_close(ours.double(), slow(*given, seen, 8**-0.5), atol=0.05, rtol=0)


def test_keys_with_a_large_common_part_lose_nothing_to_it() -> None:
    """Scores of 40 that differ by tenths would all round alike in bfloat16."""
    (query, key, value), seen, mask = drawn(torch.bfloat16, 4, 4, 8, 8)
    query, key = query.abs() + 1, key / 8 + 8
    ours, _ = attention._attend(torch.nn.Module(), query, key, value, mask)
    torch.testing.assert_close(
        ours.double(), slow(query, key, value, seen, 8**-0.5), atol=0.06, rtol=0
    )


def test_what_is_not_plain_attention_is_left_to_transformers() -> None:
    given, _, mask = drawn(torch.float32, 4, 4, 8, 8)
    bias = torch.randn(1, 4, N_TOKENS, N_TOKENS)
    biased, _ = attention._attend(torch.nn.Module(), *given, mask, position_bias=bias)
    plain, _ = attention._attend(torch.nn.Module(), *given, mask)
    assert not torch.allclose(biased, plain)
    causal, _ = attention._attend(torch.nn.Module(), *given, None, is_causal=True)
    seen = torch.ones(N_ROWS, N_TOKENS, N_TOKENS, dtype=torch.bool).tril()
    torch.testing.assert_close(causal.double(), slow(*given, seen, 8**-0.5), atol=1e-5, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_model_that_attends_so_answers_alike(dtype: torch.dtype) -> None:
    stock, ours = model(dtype), model(dtype)
    speed_up_attention(ours, CPU)
    tokens = torch.arange(24).reshape(2, 12)
    with torch.inference_mode():
        expected, found = (each(tokens, use_cache=False).logits for each in (stock, ours))
    assert ours.config._attn_implementation != stock.config._attn_implementation
    torch.testing.assert_close(
        found, expected, atol=2e-2 if dtype == torch.bfloat16 else 1e-5, rtol=0
    )


def test_only_a_name_of_our_own_is_added_to_what_transformers_knows() -> None:
    attention_of, mask_of = AttentionInterface(), AttentionMaskInterface()
    before = [
        {name: known[name] for name in known if name != OURS} for known in (attention_of, mask_of)
    ]
    ours = model(torch.float32)
    speed_up_attention(ours, CPU)
    assert ours.config._attn_implementation == OURS
    after = [
        {name: known[name] for name in known if name != OURS} for known in (attention_of, mask_of)
    ]
    assert after == before
    assert attention_of[OURS] is attention._attend


@pytest.mark.slow
@pytest.mark.parametrize("processors", [False], indirect=True)  # another process: once is enough
def test_nothing_is_registered_at_import() -> None:
    asked = (
        "import gptailor.engine; from transformers import AttentionInterface as A; "
        f"assert {OURS!r} not in A()"
    )
    done = run_python(None, "-c", asked)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("chosen", "device"), [("eager", "cpu"), ("sdpa", "cuda")])
def test_other_choices_stand(chosen: str, device: str) -> None:
    ours = model(torch.float32)
    ours.set_attn_implementation(chosen)
    speed_up_attention(ours, torch.device(device))
    assert ours.config._attn_implementation == chosen
