"""Tokenised as lm-eval's Hugging Face backend does it."""

import copy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from tokenizers.processors import TemplateProcessing

from gptailor.errors import TaskError
from gptailor.tasks.encoding import Encoder, rolling_windows
from gptailor.tasks.lm_eval.open_task import as_lm_eval_runs


@settings(deadline=None)
@given(n=st.integers(1, 60), max_length=st.integers(1, 20))
def test_windows_are_lm_evals(n: int, max_length: int) -> None:
    tokens = list(range(1, n + 1))
    theirs = [
        make_disjoint_window(pair) for pair in get_rolling_token_windows(tokens, 0, max_length, 1)
    ]
    ours = list(rolling_windows(tokens, 0, max_length))
    assert [(list(a), list(b)) for a, b in ours] == theirs
    assert [token for _, window in ours for token in window] == tokens


@pytest.fixture(scope="module")
def bench_backends(tiny_model: Any, tiny_tokenizer: Any) -> dict[bool, tuple[Any, Any]]:
    """Tokenizers that add no first token and one, with lm-eval's backend up to its forward."""

    class Recorder(HFLM):
        def _loglikelihood_tokens(self, requests: Any, **_: Any) -> Any:
            return requests

    adding = copy.deepcopy(tiny_tokenizer)
    bos = adding.bos_token
    adding.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{bos} $A", special_tokens=[(bos, adding.bos_token_id)]
    )
    with as_lm_eval_runs():
        return {
            adds: (one, Recorder(pretrained=tiny_model("llama"), tokenizer=one, max_length=16))
            for adds, one in ((False, tiny_tokenizer), (True, adding))
        }


TEXT = st.text("ab é東.\n", max_size=12)
SHORT = st.text("ab é東.\n", min_size=1, max_size=6)


@settings(deadline=None)
@given(
    context=TEXT, continuation=st.text("ab é東.\n", min_size=1, max_size=6), adds_bos=st.booleans()
)
def test_pairs_are_lm_evals(
    bench_backends: dict[bool, tuple[Any, Any]], context: str, continuation: str, adds_bos: bool
) -> None:
    tokenizer, backend = bench_backends[adds_bos]
    if context and not context.strip() and not adds_bos:
        return  # lm-eval fails on a context of white space; so do we, with a sentence
    requests = [Instance("loglikelihood", {}, (context, continuation), 0)]
    ((_, before, after),) = backend.loglikelihood(requests, disable_tqdm=True)
    encoder = Encoder.of(tokenizer, 16)
    if not after:
        with pytest.raises(TaskError, match="no tokens of its own"):
            encoder.pairs([(context, continuation)])
        return
    if len(after) > 16:
        return
    fed = (before + after)[-17:]
    ((ours_before, ours_after),) = encoder.pairs([(context, continuation)])
    assert [*ours_before, *ours_after] == fed
    assert list(ours_after) == after
    assert ours_before


def test_a_context_loses_its_beginning_when_it_does_not_fit(tiny_tokenizer: Any) -> None:
    encoder = Encoder.of(tiny_tokenizer, 8)
    ((before, after),) = encoder.pairs([("x" * 50, " abc")])
    assert len(before) + len(after) == 9  # eight are fed, the ninth is only predicted


def test_a_continuation_longer_than_the_window_is_refused(tiny_tokenizer: Any) -> None:
    with pytest.raises(TaskError, match=r"has 31 tokens, more than the 8 .* raise max_length"):
        Encoder.of(tiny_tokenizer, 8).pairs([("x", "#" * 31)])


def test_a_context_of_white_space_is_refused(tiny_tokenizer: Any) -> None:
    with pytest.raises(TaskError, match="white space"):
        Encoder.of(tiny_tokenizer, 8).pairs([(" \n", "a")])


def test_a_tokenizer_without_a_first_token_is_refused(tiny_tokenizer: Any) -> None:
    bare = copy.deepcopy(tiny_tokenizer)
    bare.bos_token = None
    bare.eos_token = None
    with pytest.raises(TaskError, match="neither a beginning-of-sequence"):
        Encoder.of(bare, 8)
