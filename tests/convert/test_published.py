"""Published search results, held against a slow merge by the published formulas."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from gptailor.cli import main
from gptailor.convert.published import convert_published
from gptailor.convert.published_file import read_published
from gptailor.core.tailoring import LayerSpec, Tailoring
from gptailor.errors import UserError
from gptailor.export.checkpoint import tailored_weights
from gptailor.family import Family

MEMBERS = ("base", "math", "code", "chat")
Config = dict[str, Any]


def candidate(
    bits: Mapping[int, str],
    removed: list[int],
    scales: Mapping[int, float] = {},
    output_scales: Mapping[int, float] = {},
) -> Config:
    """What the published search writes: removals, then every kept layer's keys."""
    config: Config = {f"remove_idx_{index}": layer for index, layer in enumerate(removed)}
    for layer, chosen in bits.items():
        config |= {f"layer_{layer}_candidate_{c}": int(bit) for c, bit in enumerate(chosen)}
        config[f"layer_{layer}_merge_scale_factor"] = scales.get(layer, 0.5)
        config[f"layer_{layer}_output_scale"] = output_scales.get(layer, 1.0)
    return config


def published_merge(
    config: Config, n_layers: int, states: list[dict[str, Tensor]], *, quirk: bool
) -> dict[str, Tensor]:
    """The merge as published, tensor by tensor; `states` are the base's and the candidates'.

    With `quirk`, the base's tensor of a layer is looked up under the name of the OUTPUT tensor.
    """
    removed = {config[key] for key in config if key.startswith("remove_idx_")}
    slices = []
    for layer in range(n_layers):
        if layer in removed:
            continue
        chosen = [c for c in range(len(states) - 1) if config[f"layer_{layer}_candidate_{c}"]]
        slices.append((layer, chosen, config[f"layer_{layer}_merge_scale_factor"]))

    def merged(name: str, chosen: list[int], scale: float, base_name: str) -> Tensor:
        if not chosen:
            return states[0][name]
        if len(chosen) == 1:
            return states[chosen[0] + 1][name]
        base = states[0][base_name].double()
        return (base + scale * sum(states[c + 1][name].double() - base for c in chosen)).float()

    out = {}
    for place, (layer, chosen, scale) in enumerate(slices):
        for name in states[0]:
            inner = name.removeprefix(f"model.layers.{layer}.")
            if inner != name:
                out_name = f"model.layers.{place}.{inner}"
                out[out_name] = merged(name, chosen, scale, out_name if quirk else name)
    for name, (_, chosen, scale) in (
        ("model.embed_tokens.weight", slices[0]),
        ("model.norm.weight", slices[-1]),
        ("lm_head.weight", slices[-1]),
    ):
        out[name] = merged(name, chosen, scale, name)
    return out


def drawn(seed: int) -> Config:
    """A random candidate of 6 layers and 3 variants."""
    rng = np.random.default_rng(seed)
    removed = [int(layer) for layer in rng.choice(6, size=rng.integers(0, 4), replace=False)]
    kept = [layer for layer in range(6) if layer not in removed]
    bits = {layer: "".join(str(bit) for bit in rng.integers(0, 2, size=3)) for layer in kept}
    scales = {layer: float(rng.choice([0.0, 0.3, 0.5, 1.0, rng.random()])) for layer in kept}
    return candidate(bits, removed, scales, {layer: float(rng.random()) for layer in kept})


@pytest.fixture(scope="module")
def states(pico_family: Any) -> list[dict[str, Tensor]]:
    folders = [pico_family.base, *(pico_family.variants[name] for name in MEMBERS[1:])]
    return [load_file(folder / "model.safetensors") for folder in folders]


@pytest.mark.parametrize("compat", [False, True])
@pytest.mark.parametrize("seed", range(12))
def test_the_model_is_the_one_that_the_published_merge_makes(
    seed: int, compat: bool, pico: Family, states: list[dict[str, Tensor]]
) -> None:
    config = drawn(seed)
    tailoring, _ = convert_published(config, n_layers=6, members=MEMBERS, compat=compat)
    pico.check(tailoring)
    ours = tailored_weights(pico, tailoring, path="model.layers", dtype=torch.float32)
    theirs = published_merge(config, 6, states, quirk=compat)
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, rtol=2e-6, atol=2e-6, msg=name)


def test_golden_numbers(tmp_path: Path) -> None:
    """Worked out by hand: base 1, 2, 3; a adds 10 to it, b adds 100; layer 1 is cut."""
    states = [
        {f"model.layers.{layer}.w": torch.tensor([layer + 1.0 + shift]) for layer in range(3)}
        | {name: torch.tensor([shift]) for name in ("embed", "norm", "head")}
        for shift in (0.0, 10.0, 100.0)
    ]
    config = candidate({0: "01", 2: "11"}, [1], {2: 0.5}, {2: 0.7})

    def value(spec: LayerSpec) -> float:
        if spec.method is None:
            (source,) = spec.sources
            return member(source.member, source.layer)
        assert spec.base is not None
        base = member(spec.base.member, spec.base.layer)
        deltas = [member(source.member, source.layer) - base for source in spec.sources]
        return base + dict(spec.params)["scale"] * sum(deltas)  # type: ignore[operator]

    def member(name: str, layer: int | None) -> float:
        state = states[("base", "a", "b").index(name)]
        return float(state["norm" if layer is None else f"model.layers.{layer}.w"])

    for compat, last in ((False, 3 + 0.5 * 110), (True, 2 + 0.5 * (11 + 101))):
        tailoring, _ = convert_published(
            config, n_layers=3, members=("base", "a", "b"), compat=compat
        )
        assert [value(spec) for spec in tailoring.layers] == [101, last]
        assert value(tailoring.embedding) == 100
        assert value(tailoring.head) == 0.5 * 110
        assert tailoring.norm == tailoring.head


def test_each_number_of_candidates_has_its_meaning() -> None:
    config = candidate({0: "000", 1: "010", 2: "101", 3: "111"}, [], {0: 0.9, 1: 0.9, 3: 0.25})
    tailoring, _ = convert_published(config, n_layers=4, members=MEMBERS)
    assert tailoring == Tailoring(
        (
            LayerSpec.of("base:0"),
            LayerSpec.of("code:1"),
            LayerSpec.of("math:2", "chat:2", merge="task_arithmetic", scale=0.5),
            LayerSpec.of("math:3", "code:3", "chat:3", merge="task_arithmetic", scale=0.25),
        ),
        embedding=LayerSpec.of("base"),
        head=LayerSpec.of("math", "code", "chat", merge="task_arithmetic", scale=0.25),
    )


def test_with_compat_the_base_is_the_layer_at_the_place_in_the_result() -> None:
    config = candidate({0: "11", 2: "11", 4: "11"}, [3, 1], {4: 0.0})
    plain, compat = (
        convert_published(config, n_layers=5, members=("base", "a", "b"), compat=compat)[0]
        for compat in (False, True)
    )
    assert [str(spec.base) for spec in plain.layers[:2]] == ["base:0", "base:2"]
    assert [str(spec.base) for spec in compat.layers[:2]] == ["base:0", "base:1"]
    assert [str(each.layers[2]) for each in (plain, compat)] == ["base:4", "base:2"]
    assert (plain.embedding, plain.head) == (compat.embedding, compat.head)


@pytest.mark.parametrize(
    ("config", "told"),
    [
        (candidate({0: "10", 2: "10"}, [1], {}, {0: 0.6}), "output_scale is not 1 in layer 0;"),
        (candidate({0: "11", 2: "11"}, [1, 1]), "layer 1 is removed by remove_idx_0 and remove_"),
        (candidate({0: "11", 2: "10"}, [1]), "embedding, norm and head are not in the file;"),
        (candidate({0: "11", 2: "10"}, [1]), "members that tie the two can't take this"),
        (candidate({0: "11", 2: "11"}, [1], {2: 0.3}), "differences of layer 2 from base:1; here"),
        (candidate({0: "11", 1: "00", 2: "11"}, []), "candidate 0 is a, 1 is b"),
    ],
)
def test_what_is_open_or_has_no_effect_is_told(config: Config, told: str) -> None:
    _, notes = convert_published(config, n_layers=3, members=("base", "a", "b"), where="x.json")
    assert sum(told in note for note in notes) == 1
    assert all("\n" not in note for note in notes)


def test_nothing_is_told_that_is_not_so() -> None:
    config = candidate({0: "11", 2: "11"}, [1], {0: 0.3, 2: 0.3})
    del config["layer_0_output_scale"]  # nobody misses it
    for compat in (False, True):
        _, notes = convert_published(config, n_layers=3, members=("base", "a", "b"), compat=compat)
        assert len(notes) == 3  # who the members are, the outside, the base
        assert ("as here, with compat" in notes[-1]) == compat


@pytest.mark.parametrize(
    "change",
    [
        {"remove_idx_0": 1.0, "layer_0_candidate_0": 1.0, "layer_0_candidate_1": True},
        {"layer_0_merge_scale_factor": 1, "layer_2_merge_scale_factor": None},
        {"layer_1_candidate_0": float("nan"), "layer_1_merge_scale_factor": None},
    ],
)
def test_numbers_may_be_written_otherwise(change: Config) -> None:
    sound = candidate({0: "11", 2: "01"}, [1], {0: 1.0})
    told = [
        convert_published(config, n_layers=3, members=("base", "a", "b"))[0]
        for config in (sound, sound | change)
    ]
    assert told[0] == told[1]


@pytest.mark.parametrize(
    ("name", "n_layers", "counts"),
    [
        ("7b/1", 32, (1, 13, 9)),
        ("7b/2", 32, (3, 13, 7)),
        ("7b/3", 32, (1, 12, 10)),
        ("13b_1", 40, (4, 22, 4)),
    ],
)
def test_the_published_results(
    name: str, n_layers: int, counts: tuple[int, int, int], shared_folder: Path
) -> None:
    path = shared_folder / "reference_configs" / f"{name}.json"
    config, _ = read_published(path)
    tailoring, notes = convert_published(config, n_layers=n_layers, members=MEMBERS)
    merged = sum(spec.method is not None for spec in tailoring.layers)
    base = sum(spec.method is None and spec.members == ("base",) for spec in tailoring.layers)
    assert (base, len(tailoring.layers) - base - merged, merged) == counts
    assert Tailoring.from_yaml(tailoring.to_yaml()) == tailoring
    assert len(notes) >= 3


# -- files with several candidates

ONE, TWO = candidate({0: "1", 1: "0"}, []), candidate({0: "0", 1: "1"}, [])


def history(*costs: Any, style: str = "mapping", status: int = 1) -> dict[str, Any]:
    """SMAC's run history: candidate 1 is the first, 2 the second; scored at budgets 9 and 27."""
    data: list[Any] = []
    for budget, part in ((9.0, costs[:2]), (27.0, costs[2:])):
        for name, cost in enumerate(part, start=1):
            if style == "mapping":
                keys = {"config_id": name, "instance": None, "seed": 0, "budget": budget}
                data.append(keys | {"cost": cost, "time": 1.0, "status": status})
            else:
                data.append([name, None, 0, budget, cost, 1.0, status, 0.0, 1.0, {}])
                data[-1][6:6] = [1.0] if style == "with cpu time" else []
    return {"stats": {}, "data": data, "configs": {"1": ONE, "2": TWO}, "config_origins": {}}


def read(plain: Any, tmp_path: Path, trial: str | None = None) -> tuple[Any, tuple[str, ...]]:
    path = tmp_path / "result.json"
    path.write_text(plain if isinstance(plain, str) else json.dumps(plain), encoding="utf-8")
    return read_published(path, trial=trial)


@pytest.mark.parametrize("style", ["mapping", "list", "with cpu time"])
def test_the_best_of_a_run_history_is_taken_at_the_highest_budget(
    style: str, tmp_path: Path
) -> None:
    config, notes = read(history(0.1, 0.9, 0.5, 0.4, style=style), tmp_path)
    assert config == TWO
    assert notes == ("candidate 2 of 2 is taken: the lowest cost at budget 27 (0.4)",)


@pytest.mark.parametrize("key", ["seed", "instance"])
def test_repeated_runs_of_a_candidate_count_by_their_mean(key: str, tmp_path: Path) -> None:
    found = history(0.1, 0.2, 0.5, 0.4)
    lucky = next(e for e in found["data"] if e["config_id"] == 1 and e["budget"] == 27)
    found["data"].append({**lucky, key: 7, "cost": 0.2})  # the mean of candidate 1 is 0.35
    config, notes = read(found, tmp_path)
    assert (config, notes[0][-41:]) == (ONE, "at budget 27, the mean of repeated runs (0.35)"[-41:])
    found["data"].append({**lucky, key: 8, "cost": 0.9})  # and now 0.53, its best run still 0.2
    assert read(found, tmp_path)[0] == TWO


def test_a_candidate_that_is_best_in_every_objective_is_taken(tmp_path: Path) -> None:
    config, notes = read(history([0.9, 0.9], [0.1, 0.1], [0.3, 0.2], [0.3, 0.4]), tmp_path)
    assert config == ONE
    assert "(0.3, 0.2)" in notes[0]


def test_a_failed_run_is_never_the_best(tmp_path: Path) -> None:
    assert read(history(0.5, float("inf")), tmp_path)[0] == ONE
    with pytest.raises(UserError, match="no candidate in it was scored"):
        read(history(0.5, 0.4, status=2), tmp_path)


def test_a_front_of_several_is_told_and_one_can_be_named(tmp_path: Path) -> None:
    front = history([0.1, 0.4], [0.3, 0.2])
    with pytest.raises(UserError, match="none of them in every objective"):
        read(front, tmp_path)
    assert read(front, tmp_path, trial="2") == (TWO, ())
    with pytest.raises(UserError, match="has no candidate '3'; it has 1, 2"):
        read(front, tmp_path, trial="3")


@pytest.mark.parametrize(
    ("plain", "trial"),
    [
        ([ONE, TWO], "1"),
        ({"iteration_0": ONE, "iteration_1": TWO}, "iteration_1"),
        ([{"score": 0.4, "config": ONE}, {"score": 0.5, "config": TWO}], "1"),
        (f"{json.dumps(ONE)}\n\n{json.dumps(TWO)}\n", "1"),
    ],
)
def test_dumps_of_several_candidates_need_a_name(plain: Any, trial: str, tmp_path: Path) -> None:
    assert read(plain, tmp_path, trial=trial) == (TWO, ())
    with pytest.raises(UserError, match="holds 2 candidates"):
        read(plain, tmp_path)


def test_a_wrapped_candidate_is_found(tmp_path: Path) -> None:
    assert read({"best": {"score": 0.5, "config": TWO}}, tmp_path)[0] == TWO
    assert read([TWO], tmp_path)[0] == TWO
    with pytest.raises(UserError, match="holds a single candidate"):
        read(TWO, tmp_path, trial="1")


# -- the command line


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["gptailor", "convert", *arguments])
    with pytest.raises(SystemExit) as stop:
        main()
    return int(stop.value.code or 0)


@pytest.fixture
def result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "my result.json"
    path.write_text(json.dumps(candidate({0: "11", 2: "11"}, [1], {2: 0.3})), encoding="utf-8")
    return path


GIVEN = ("--layers", "3", "--members", "base, math,code")


def test_the_command_writes_a_tailoring_and_tells_notes_apart(
    result: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, str(result), *GIVEN) == 0
    out, err = capsys.readouterr()
    assert "2 of 3 layers are kept, 2 of them merged" in out
    assert err.count("note: ") == len(err.splitlines()) == 3
    assert "compat reproduces it" in err
    plain = Tailoring.load(Path("tailoring.yaml"))
    assert run(monkeypatch, str(result), *GIVEN, "--compat", "-o", "deep/compat.yaml") == 0
    compat = Tailoring.load(Path("deep/compat.yaml"))
    assert [str(each.layers[1].base) for each in (plain, compat)] == ["base:2", "base:1"]


def test_the_command_writes_to_stdout(
    result: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, str(result), *GIVEN, "-o", "-") == 0
    assert len(Tailoring.from_yaml(capsys.readouterr().out).layers) == 2
    assert list(result.parent.iterdir()) == [result]


def test_the_command_replaces_only_what_it_may(
    result: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("mine.yaml").write_text("mine", encoding="utf-8")
    Path("folder").mkdir()
    for out, told in (
        ("mine.yaml", "exists already"),
        (str(result), "is the file that is read"),
        ("folder", "is a folder"),
    ):
        assert run(monkeypatch, str(result), *GIVEN, "-o", out) == 2
        assert told in capsys.readouterr().err
    assert Path("mine.yaml").read_text(encoding="utf-8") == "mine"
    assert run(monkeypatch, str(result), *GIVEN, "-o", "mine.yaml", "--overwrite") == 0
    assert run(monkeypatch, str(result), *GIVEN, "-o", "mine.yaml") == 0  # it says the same


def test_the_command_tells_faults_and_writes_nothing(
    result: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments in (("--layers", "9", *GIVEN[2:]), (*GIVEN[:2], "--members", "base,math")):
        assert run(monkeypatch, str(result), *arguments) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith(f"error: {result}: ")
        assert len(err.splitlines()) == 1
    assert list(result.parent.iterdir()) == [result]
