"""Whether other programs read what is exported, and write the same tokens as transformers 5.

Usage: python benchmarks/readers/measure.py [--envs .venv-readers] [--out benchmarks/results]
[--only TYPE ...] [--readers NAME ...]

Tiny random models of every type in models.yaml are tailored (cut, taken, merged) and exported, the
folder for transformers 4 and vLLM, a GGUF file for llama.cpp. Each program reads them in its own
environment (`make readers` makes these), splits a text and writes greedily after given tokens.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import yaml
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from gptailor.core.tailoring import LayerSpec, Tailoring
from gptailor.errors import UserError
from gptailor.export import export_checkpoint, export_gguf
from gptailor.family import Family, MemberSpec, load_family

HERE = Path(__file__).parent
TEXT = (
    "The capital of France is Paris.\n\ndef add(a, b):\n\treturn a + b  # 12345 d\u00e9j\u00e0 vu"
)
CHAT = [{"role": "user", "content": "What is 2+2?"}]
TEMPLATE = (
    "{% for m in messages %}<s>{{ m['role'] }}: {{ m['content'] }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant: {% endif %}"
)
PROMPT = (5, 17, 200, 43, 99, 301, 7, 250, 64, 128)
N_NEW = 24
MINUTES = 90  # of all models of one reader


@dataclass(frozen=True)
class Reader:
    """A program that reads what is exported."""

    program: str  # inside the folder of environments
    script: str
    gguf: bool = False

    def command(self, envs: Path) -> tuple[list[str], dict[str, str]]:
        """What to run, and its environment."""
        program = (envs / self.program).absolute()
        env = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": ""}
        runs_itself = program.name.startswith("python")
        python = str(program) if runs_itself else sys.executable
        return [python, str(HERE / self.script)], {**env, "LLAMA_SERVER": str(program)}


READERS: Mapping[str, Reader] = {
    "transformers 4": Reader("transformers-4/bin/python", "by_transformers.py"),
    "vLLM": Reader("vllm/bin/python", "by_vllm.py"),
    "llama.cpp": Reader("llama.cpp/bin/llama-server", "by_llama_server.py", gguf=True),
}


@dataclass(frozen=True)
class Row:
    """What one reader made of one model."""

    reader: str
    model_type: str
    result: str  # same, other tokens, other split, other chat, not read, not written
    detail: str = ""


def main(words: Sequence[str] | None = None) -> None:
    """Export, let every reader read, and write figures and page."""
    asked = _asked(words)
    names = asked.only or list(model_table()["models"])
    readers = asked.readers or list(READERS)
    with tempfile.TemporaryDirectory() as folder:
        versions, rows = measured(names, readers, asked.envs, Path(folder))
    for row in rows:
        print(f"{row.reader:15} {row.model_type:13} {row.result:12} {row.detail[:120]}")
    if asked.out is not None:
        _keep(asked.out / "readers.json", versions, rows)


def measured(
    names: Sequence[str], readers: Sequence[str], envs: Path, folder: Path
) -> tuple[dict[str, str], list[Row]]:
    """The readers' versions, and a row for each reader and model type."""
    versions = {"transformers 5": version("transformers"), "gptailor": version("gptailor")}
    rows: list[Row] = []
    tokenizer = made_tokenizer()
    for gguf in sorted({READERS[name].gguf for name in readers}):
        place = folder / ("gguf" if gguf else "hf")
        wanted, refused = exported(names, place, tokenizer, gguf=gguf)
        ask = {"text": TEXT, "prompt": PROMPT, "n_new": N_NEW, "chat": CHAT}
        (place / "ask.json").write_text(json.dumps(ask), encoding="utf-8")
        for name in (name for name in readers if READERS[name].gguf == gguf):
            versions[name], told = _read(READERS[name], envs, place, list(wanted))
            rows += [Row(name, one, "not written", why) for one, why in refused.items()]
            rows += [_row(name, one, told[one], wanted[one]) for one in wanted]
    return versions, rows


def exported(
    names: Sequence[str], folder: Path, tokenizer: PreTrainedTokenizerFast, *, gguf: bool
) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """Export a tailored model of each type into a folder.

    Returns:
        Type to what transformers 5 reads and writes; and type to why it was refused.
    """
    folder.mkdir(parents=True)
    wanted, refused = {}, {}
    for name in names:
        family = made_family(name, tokenizer, folder / f"{name}-members", gguf=gguf)
        # SmolLM3's fourth layer has no rotary positions, in llama.cpp always
        kept = (0, 1, 2, 3, 5) if gguf and name == "smollm3" else (0, 2, 3, 5)
        tailoring = Tailoring(tuple(_spec(layer) for layer in kept))
        plain = folder / f"{name}-plain" if gguf else folder / name
        try:
            export_checkpoint(family, tailoring, plain)
            if gguf:
                export_gguf(family, tailoring, folder / f"{name}.gguf", dtype="f32")
        except UserError as error:
            refused[name] = str(error)
            continue
        stock = AutoModelForCausalLM.from_pretrained(plain, dtype=torch.float32)
        prompt = torch.tensor([PROMPT])
        lengths = {"max_new_tokens": N_NEW, "min_new_tokens": N_NEW}
        made = stock.generate(
            prompt, attention_mask=torch.ones_like(prompt), do_sample=False, **lengths
        )
        read = AutoTokenizer.from_pretrained(plain)
        wanted[name] = {
            "split": read(TEXT)["input_ids"],
            "chat": read.apply_chat_template(CHAT, tokenize=False, add_generation_prompt=True),
            "tokens": made[0, len(PROMPT) :].tolist(),
        }
    return wanted, refused


def _spec(layer: int) -> LayerSpec:
    if layer == 3:
        return LayerSpec.of("base:3", "math:3", merge="linear", weights=(0.5, 0.5))
    return LayerSpec.of(f"{'math' if layer == 2 else 'base'}:{layer}")


@cache
def model_table() -> Mapping[str, Any]:
    """The tiny model of every type."""
    known: Mapping[str, Any] = yaml.safe_load((HERE / "models.yaml").read_text(encoding="utf-8"))
    return known


def made_family(
    name: str, tokenizer: PreTrainedTokenizerFast, folder: Path, *, gguf: bool
) -> Family:
    """A base and a variant of random weights that matter, saved and opened."""
    own = dict(model_table()["models"][name])
    other, model_type = own.pop("gguf", {}), own.pop("type", name)
    fields = model_table()["common"] | own
    fields = {key: value for key, value in fields.items() if value is not None}
    fields |= other if gguf else {}
    for seed, member in enumerate(("base", "math")):
        with torch.random.fork_rng(devices=[]):
            model = AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **fields))
        _randomised(model, seed).save_pretrained(folder / member)
        tokenizer.save_pretrained(folder / member)
    paths = {member: MemberSpec(path=str(folder / member)) for member in ("base", "math")}
    return load_family(paths.pop("base"), paths, dtype=torch.float32)


def _randomised(model: PreTrainedModel, seed: int) -> PreTrainedModel:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.3)
    return model.float().eval()


def made_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE of 320 tokens."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=model_table()["common"]["vocab_size"],
        special_tokens=["<s>", "</s>", "<pad>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator([TEXT] * 4, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )
    fast.chat_template = TEMPLATE
    return fast


def _read(
    reader: Reader, envs: Path, place: Path, names: Sequence[str]
) -> tuple[str, dict[str, dict[str, Any]]]:
    """The reader's version, and what it printed of each model.

    A reader that ends before its last model is started again with those after the one it ended at.
    """
    found, told, left = "", dict[str, dict[str, Any]](), list(names)
    command, env = reader.command(envs)
    ask = str(place / "ask.json")
    while left:
        paths = [str(place / (f"{name}.gguf" if reader.gguf else name)) for name in left]
        lines, why = _lines([*command, ask, *paths], env)
        found = next(lines, {}).get("version", found)
        answers = list(lines)
        told |= {name: answer for name, answer in zip(left, answers, strict=False)}
        left = left[len(answers) :]
        if left:
            told[left[0]] = {"error": f"the program ended: {why}"}
            left = left[1:]
    return found, told


def _lines(command: Sequence[str], env: Mapping[str, str]) -> tuple[Iterator[dict[str, Any]], str]:
    """The JSON lines that a program prints, and the last line that it wrote as an error."""
    try:
        done = subprocess.run(
            command, env=dict(env), capture_output=True, text=True, timeout=60 * MINUTES
        )
        out, err = done.stdout, done.stderr
    except subprocess.TimeoutExpired as error:
        out, err = (error.stdout or b"").decode(), f"no end within {MINUTES} minutes"
    lines = (json.loads(line) for line in out.splitlines() if line.startswith("{"))
    return lines, (err.strip().splitlines() or [""])[-1]


def _row(reader: str, name: str, told: Mapping[str, Any], wanted: Mapping[str, Any]) -> Row:
    if "error" in told:
        return Row(reader, name, "not read", " ".join(str(told["error"]).split())[:400])
    for key in ("split", "chat"):
        if told.get(key, wanted[key]) != wanted[key]:
            return Row(reader, name, f"other {key}", f"{told[key]!r} instead of {wanted[key]!r}")
    pairs = enumerate(zip(told["tokens"], wanted["tokens"], strict=True))
    different = next((index for index, (one, other) in pairs if one != other), None)
    if different is not None:
        return Row(reader, name, "other tokens", f"{name} differs after {different} tokens")
    return Row(reader, name, "same", told.get("by", ""))


def _keep(path: Path, versions: Mapping[str, str], rows: Sequence[Row]) -> None:
    """Write the figures; rows of readers or types that were not measured now stay."""
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    now = {(row.reader, row.model_type): asdict(row) for row in rows}
    held = {(row["reader"], row["model_type"]): row for row in known.get("rows", [])}
    plain = {
        "date": time.strftime("%Y-%m-%d"),
        "n_new": N_NEW,
        "n_prompt": len(PROMPT),
        "versions": {**known.get("versions", {}), **versions},
        "rows": [row for _, row in sorted({**held, **now}.items())],
    }
    path.write_text(json.dumps(plain, indent=1) + "\n", encoding="utf-8")


def _asked(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--envs", type=Path, default=Path(".venv-readers"))
    parser.add_argument("--only", nargs="*", choices=list(model_table()["models"]))
    parser.add_argument("--readers", nargs="*", choices=list(READERS))
    parser.add_argument("--out", type=Path)
    return parser.parse_args(words)


if __name__ == "__main__":
    main()
