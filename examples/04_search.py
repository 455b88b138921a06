"""Search a family that is already in memory, with a searcher of your own.

Run ``python examples/04_search.py``; it makes tiny models on the spot, takes seconds, and writes to
a temporary folder, which it removes. The models are random, so their scores mean nothing.
"""

import tempfile
from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import gptailor as gt

TASK = Path(__file__).parent / "smollm2" / "tasks" / "capitals.yaml"


def best_of_eight(
    context: gt.SearchContext,
) -> Generator[tuple[gt.Proposal, ...], tuple[gt.Trial, ...], None]:
    """A searcher: yields groups of proposals, and is sent the trials of each group."""
    rng = np.random.default_rng(context.seed)
    while True:
        drawn = [context.space.random(rng) for _ in range(8)]
        trials = yield tuple(gt.Proposal(one, context.rungs[0], "drawn") for one in drawn)
        loss = context.objective.scalar  # a failed trial has no scores
        losses = {each.tailoring: loss(each.scores) for each in trials if each.scores}
        if losses:
            best = min(losses, key=losses.__getitem__)
            yield (gt.Proposal(best, context.rungs[-1], "best of eight"),)


def search(base: Any, variants: dict[str, Any], tokenizer: Any, folder: Path) -> gt.Run:
    """The search itself: five statements."""
    family = gt.family_of(base, variants, tokenizer)
    task = {"name": str(TASK), "metric": "acc", "split": "search", "limit": 24, "test_limit": 24}
    tasks = gt.load_tasks([task], family)
    config = {"remove": 2, "budget": {"max_trials": 27, "n_examples": [4, 12], "finalists": 3}}
    return gt.search(config, folder / "run", searcher=best_of_eight, family=family, tasks=tasks)


def tiny_model(base: LlamaForCausalLM | None = None) -> LlamaForCausalLM:
    """Six random layers; or a variant: a copy with a little noise on every weight."""
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 6}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    config = LlamaConfig(vocab_size=258, bos_token_id=256, **sizes, **heads)
    model = LlamaForCausalLM(config).eval()
    if base is not None:
        model.load_state_dict(base.state_dict())
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.05 * torch.randn_like(parameter)
    return model


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer whose tokens are the 256 bytes."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: token for token, letter in enumerate([*letters, "<s>", "</s>"])}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="</s>"
    )


def main() -> None:
    """Search, look at the result, and export it."""
    torch.manual_seed(0)
    base = tiny_model()
    variants = {"math": tiny_model(base), "code": tiny_model(base)}
    with tempfile.TemporaryDirectory() as temporary:
        run = search(base, variants, tiny_tokenizer(), Path(temporary))
        print(run.best.tailoring.to_yaml())
        print("trials:", len(run.trials), " on the front:", len(run.front))
        for name, scores in run.scores.items():
            print(f"{name:6} {scores.value('capitals', 'acc'):.2f} on the test split")
        print("report:", run.report().name, " model:", run.export(Path(temporary) / "model").name)


if __name__ == "__main__":
    main()
