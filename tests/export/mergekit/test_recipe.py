"""A recipe is rebuilt by mergekit itself, and every tensor is the one that we assemble."""

import dataclasses
import json
import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from gptailor.core.tailoring import LayerSpec, Tailoring
from gptailor.errors import ExportError, TailoringError
from gptailor.export import export_checkpoint
from gptailor.export.checkpoint import tailored_weights
from gptailor.export.mergekit.member_files import known_architectures
from gptailor.export.mergekit.recipe import export_recipe, mergekit_recipe
from gptailor.family import Family, MemberSpec, load_family
from gptailor.merge import merge_method

of = LayerSpec.of
TAKEN = [of("base:0"), of("base:1"), of("math:1"), of("code:5"), of("code:5"), of("code:2")]
SUMS = [
    of("math:1", "code:1", merge="task_arithmetic", scale=0.6),
    of("base:1", "math:1", "code:1", merge="task_arithmetic", scale=1.3),  # the base twice
    of("math:3", "code:3", merge="task_arithmetic", scale=0.5, base="base:2"),
    of("math:3", "code:3", merge="task_arithmetic", scale=0.5, base="code:1"),
    of("math:2", "code:2", merge="linear", weights=(0.3, 0.7)),
    of("base:2", "math:2", "code:2", merge="linear", weights=(1.0, 2.0, 0.25)),
    of("base:4", "base:5", merge="linear"),  # neighbours folded into one
    of("math:4", "code:4", merge="slerp", t=0.3),
    of("code:0", "base:2", merge="slerp", t=0.8),
    of("math:2", "code:2", merge="model_stock"),
    of("math:0", "code:0", merge="dare_linear", density=1.0, scale=0.4),
    of("math:0", "code:0", merge="dare_ties", density=0.0, scale=0.4),
]
CHOICES = [
    of("math:5", "code:5", merge="ties", density=0.5, scale=0.7),
    of("math:3", "code:3", merge="ties", density=0.0, scale=0.7),
    of("math:4", "code:4", merge="dare_ties", density=1.0, scale=0.7),
    of("math:2", "code:2", merge="breadcrumbs", density=0.5, gamma=0.1, scale=0.7),
    of("math:1", "code:1", merge="breadcrumbs", density=0.8, gamma=0.5, scale=0.7),
]
SHORT = [TAKEN[1], SUMS[0], SUMS[6], SUMS[7], SUMS[9], CHOICES[0], CHOICES[3], TAKEN[5]]
LINEAR = of("math", "code", merge="linear", weights=(0.25, 0.75))
SLERP = of("math", "code", merge="slerp", t=0.4)
STOCK = of("math", "code", merge="model_stock")
TIES = of("math", "code", merge="ties", density=0.3, scale=0.6)
MOE = {"num_experts_per_tok": 2}


def rebuilt(recipe: str, folder: Path) -> tuple[Path, dict[str, Tensor]]:
    """Let mergekit rebuild a recipe; the folder, and the weights that transformers reads in it."""
    multi = pytest.importorskip("mergekit.scripts.multimerge", reason="mergekit is not installed")
    (folder / "recipe.yaml").write_text(recipe, encoding="utf-8")
    arguments = [str(folder / "recipe.yaml"), "-I", str(folder / "intermediate")]
    arguments += ["--out-path", str(folder / "rebuilt"), "--clone-tensors"]
    root = logging.getLogger()
    handlers = list(root.handlers)
    multi.main.main([*arguments, "--no-write-model-card", "--quiet"], standalone_mode=False)
    root.handlers[:] = handlers
    model, told = AutoModelForCausalLM.from_pretrained(
        folder / "rebuilt", dtype="auto", output_loading_info=True
    )
    assert not any(told.values()), told
    return folder / "rebuilt", model.state_dict()


def assert_same(found: Mapping[str, Tensor], family: Family, tailoring: Tailoring) -> None:
    wanted = tailored_weights(family, tailoring, path=family.layout.layers, dtype=family.dtype)
    assert found.keys() - wanted.keys() <= ({family.layout.head} if family.tied else set())
    for name, tensor in wanted.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor), name


@pytest.fixture(scope="module")
def llama(opened: Callable[..., Any]) -> Family:
    family: Family = opened("llama").family
    return family


@pytest.fixture(scope="module")
def whole(llama: Family) -> Tailoring:
    return Tailoring.whole("base", llama.n_layers)


@pytest.mark.slow
def test_every_method_is_rebuilt(llama: Family, tmp_path: Path) -> None:
    tailoring = Tailoring((*TAKEN, *SUMS, *CHOICES))
    folder, found = rebuilt(mergekit_recipe(llama, tailoring), tmp_path)
    assert_same(found, llama, tailoring)
    export_checkpoint(llama, tailoring, tmp_path / "ours")
    configs = [json.loads((f / "config.json").read_text()) for f in (folder, tmp_path / "ours")]
    older = {"rope_scaling", "rope_theta", "torch_dtype"}  # ours alone, for transformers 4
    assert configs[1].keys() - configs[0].keys() == older
    assert configs[0] == {key: configs[1][key] for key in configs[0]}
    files = [load_file(f / "model.safetensors") for f in (folder, tmp_path / "ours")]
    assert files[0].keys() == files[1].keys()
    assert (folder / "tokenizer.json").read_text() == (
        tmp_path / "ours" / "tokenizer.json"
    ).read_text()


@pytest.mark.sampled(7)
@pytest.mark.parametrize(
    "parts",
    [
        {"embedding": of("code"), "head": of("math")},
        {"embedding": LINEAR, "norm": of("math"), "head": of("code")},
        {"embedding": SLERP, "norm": LINEAR, "head": STOCK},
        {"embedding": of("base"), "norm": STOCK, "head": STOCK},
        {"norm": of("base", "math", merge="task_arithmetic", scale=0.3), "head": of("base")},
        {"norm": SLERP, "head": SLERP},
        {"norm": TIES, "head": TIES},
    ],
    ids=range(7),
)
def test_what_stands_outside_the_layers_is_rebuilt(
    parts: dict[str, LayerSpec], llama: Family, tmp_path: Path
) -> None:
    tailoring = Tailoring((of("base:0"), SUMS[0], of("math:2")), **parts)
    _, found = rebuilt(mergekit_recipe(llama, tailoring), tmp_path)
    assert_same(found, llama, tailoring)


@pytest.mark.slow
@pytest.mark.parametrize("norm", [of("code"), LINEAR], ids=["taken", "merged"])
def test_a_tied_head_is_rebuilt(
    norm: LayerSpec, opened: Callable[..., Any], tmp_path: Path
) -> None:
    family = opened("llama", tie_word_embeddings=True).family
    assert family.tied
    tailoring = Tailoring(tuple(SHORT), embedding=SLERP, norm=norm, head=SLERP)
    folder, found = rebuilt(mergekit_recipe(family, tailoring), tmp_path)
    assert_same(found, family, tailoring)
    assert family.layout.head not in load_file(folder / "model.safetensors")


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_members_are_rounded_as_the_search_rounded_them(
    dtype: torch.dtype, opened: Callable[..., Any], tmp_path: Path
) -> None:
    family = opened("llama", dtype=dtype).family  # its files are float32
    parts = {"embedding": SLERP, "norm": of("base"), "head": LINEAR}
    tailoring = Tailoring((*TAKEN, *SUMS), **parts)
    _, found = rebuilt(mergekit_recipe(family, tailoring), tmp_path)
    assert_same(found, family, tailoring)


@pytest.mark.slow
@pytest.mark.parametrize(("stored", "held"), [("bfloat16",) * 2, ("float16", "float32")])
def test_files_of_half_precision_are_rebuilt(
    stored: str, held: str, opened: Callable[..., Any], tmp_path: Path
) -> None:
    sources = {}
    for member, model in opened("llama").models.items():
        half = AutoModelForCausalLM.from_config(model.config, dtype=getattr(torch, stored))
        half.load_state_dict(model.state_dict())
        half.save_pretrained(tmp_path / member, max_shard_size="30KB")
        sources[member] = MemberSpec(path=str(tmp_path / member))
    family = load_family(sources.pop("base"), sources, dtype=getattr(torch, held))
    recipe = mergekit_recipe(family, Tailoring(tuple(SUMS)))
    assert (tmp_path / "math" / "model.safetensors.index.json").is_file()
    assert "-math-0" not in recipe  # nothing to be rounded, so nothing to be copied
    assert_same(rebuilt(recipe, tmp_path)[1], family, Tailoring(tuple(SUMS)))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model_type", "fields"),
    [
        ("apertus", {}),
        ("gemma", {"tie_word_embeddings": True}),
        ("glm4", {}),
        ("glm4", {"attention_bias": True, "tie_word_embeddings": True}),
        ("granite", {"attention_bias": True, "mlp_bias": True}),
        ("mistral", {}),
        ("mixtral", {**MOE, "num_local_experts": 4}),
        ("olmo2", {}),
        ("phi3", {}),
        ("qwen3_moe", {**MOE, "num_experts": 4, "moe_intermediate_size": 16}),
        ("stablelm", {}),
        ("stablelm", {"use_qkv_bias": True}),
        ("starcoder2", {"tie_word_embeddings": True}),
    ],
)
def test_every_known_architecture_is_rebuilt(
    model_type: str, fields: dict[str, Any], opened: Callable[..., Any], tmp_path: Path
) -> None:
    family = opened(model_type, **fields).family
    part = LINEAR if family.tied else of("math")
    tailoring = Tailoring(tuple(SHORT), embedding=LINEAR, norm=of("code"), head=part)
    _, found = rebuilt(mergekit_recipe(family, tailoring), tmp_path)
    assert_same(found, family, tailoring)


def test_the_known_architectures_are_those_that_mergekit_lists() -> None:
    lists = pytest.importorskip("mergekit.architecture.json_definitions")
    for model_type, known in known_architectures().items():
        (found,) = lists.NAME_TO_ARCH[known.architecture]
        definition = found.modules["default"].architecture.definition
        assert definition.expected_model_type == model_type
        layer: dict[bool, set[str]] = {True: set(), False: set()}
        for weight in definition.layer_templates.weights:
            layer[weight.optional].add(weight.name.partition("${layer_index}.")[2])
        assert layer[False] == known.layer
        assert layer[True] == known.optional
        heads = [w for w in definition.post_weights if w.name == "lm_head.weight"]
        assert known.untied == bool(heads)
        assert known.tied == all(head.optional for head in heads)


def test_the_head_of_a_recipe_says_how_to_run_it(llama: Family, tmp_path: Path) -> None:
    tailoring = Tailoring((of("base:0"), SUMS[7], CHOICES[0]), embedding=LINEAR)
    export_recipe(llama, tailoring, tmp_path / "my recipe.yaml")
    text = (tmp_path / "my recipe.yaml").read_text(encoding="utf-8")
    head = [line for line in text.splitlines() if line.startswith("#")]
    assert "#   pip install mergekit==0.1.5" in head
    assert any("mergekit-multi 'my recipe.yaml' -I intermediate --out" in line for line in head)
    assert "#   layer 1: slerp(math:4, code:4, t=0.3)" in head
    assert "#   embedding: linear(code, math, weights=[0.75, 0.25])" in head
    documents = list(yaml.safe_load_all(text))
    assert "name" not in documents[-1]
    assert documents[-1]["base_model"] == llama.paths["base"]
    assert all("name" in document for document in documents[:-1])


def test_removals_alone_need_one_document(llama: Family, tmp_path: Path) -> None:
    tailoring = Tailoring(tuple(of(f"base:{layer}") for layer in (0, 1, 4, 5)))
    recipe = mergekit_recipe(llama, tailoring)
    (document,) = yaml.safe_load_all(recipe)
    ranges = [slice_["sources"][0]["layer_range"] for slice_ in document["slices"]]
    assert ranges == [[0, 0], [0, 2], [4, 6], [0, 0]]
    assert_same(rebuilt(recipe, tmp_path)[1], llama, tailoring)


def test_two_recipes_never_share_an_intermediate_model(llama: Family) -> None:
    def names(scale: float) -> set[str]:
        spec = of("math:1", "code:1", merge="task_arithmetic", scale=scale)
        text = mergekit_recipe(llama, Tailoring((spec,)))
        return {doc["name"] for doc in yaml.safe_load_all(text) if "name" in doc}

    assert names(0.5) == names(0.5)
    assert not names(0.5) & names(0.6)


# -- what mergekit can't be made to rebuild


def refused(family: Family, tailoring: Tailoring) -> str:
    with pytest.raises(ExportError) as error:
        mergekit_recipe(family, tailoring)
    told = "\n".join(error.value.problems)
    assert told.count("use --format hf instead") == len(error.value.problems)
    return told


@merge_method("first")
def first(tensors: Sequence[Tensor]) -> Tensor:
    return tensors[0]


def test_a_merge_method_that_mergekit_does_not_have_is_refused(llama: Family) -> None:
    told = refused(llama, Tailoring((of("math:1", "code:1", merge=first),)))
    assert "layers[0]: mergekit does not have the merge method" in told


@pytest.mark.parametrize("name", ["dare_ties", "dare_linear"])
def test_what_is_drawn_at_random_is_refused(name: str, llama: Family) -> None:
    spec = of("math:1", "code:1", merge=name, density=0.5, scale=1.0, seed=3)
    told = refused(llama, Tailoring((of("base:0"), spec, spec)))
    assert told.startswith("layers[1]: dare_")
    assert "drops changes at random" in told
    assert "\nlayers[2]: " in told


@pytest.mark.parametrize("name", ["ties", "breadcrumbs"])
def test_a_choice_among_equally_large_changes_is_refused(name: str, llama: Family) -> None:
    coarse = {  # few different sizes, as bfloat16 has them
        member: {key: (tensor * 8).round() / 8 for key, tensor in state.items()}
        for member, state in llama.states.items()
    }
    for member in coarse:  # the files' own: these are held against them
        for key in ("model.embed_tokens.weight", "lm_head.weight"):
            coarse[member][key] = llama.states[member][key]
    family = dataclasses.replace(llama, states=coarse)
    told = refused(family, Tailoring((of("math:1", "code:1", merge=name, density=0.5),)))
    assert "layers[0]: " in told
    assert "equally large" in told


def test_repaired_layers_are_refused(llama: Family) -> None:
    told = refused(llama, Tailoring((of("base:0"), of("math:1").with_repair(gain=0.5))))
    assert told.startswith("layers[1]: math:1, gain 0.5 has weights that are no member's")


def test_sums_of_many_sources_are_refused(llama: Family) -> None:
    sources = [f"math:{layer}" for layer in range(5)]
    told = refused(llama, Tailoring((of(*sources, merge="task_arithmetic"),)))
    assert "sums more than 4" in told
    mergekit_recipe(llama, Tailoring((of(*sources, merge="linear"),)))  # 4 changes of the first


@pytest.mark.slow
def test_the_most_sources_that_are_allowed_are_rebuilt(llama: Family, tmp_path: Path) -> None:
    many = [f"{member}:{layer}" for member in ("math", "code") for layer in (0, 3)]
    tailoring = Tailoring(
        (
            of(*many, merge="task_arithmetic", scale=0.3),
            of(*many, merge="ties", density=0.4, scale=0.3),
            of(*many, "base:1", merge="linear", weights=(1, 2, 3, 4, 5)),
        )
    )
    assert_same(rebuilt(mergekit_recipe(llama, tailoring), tmp_path)[1], llama, tailoring)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model_type", "fields", "told"),
    [
        ("qwen3", {}, "can't write models of type 'qwen3'"),
        ("smollm3", {}, "can't write models of type 'smollm3'"),
        ("gpt_neox", {}, "can't write models of type 'gpt_neox'"),
        ("llama", {"attention_bias": True}, "leaves out self_attn.k_proj.bias in layers of llama"),
        ("starcoder2", {"use_bias": False}, "asks for mlp.c_fc.bias in layers of starcoder2"),
        ("phi3", {"tie_word_embeddings": True}, "phi3 models with a head tied to the embedding"),
        ("gemma", {"tie_word_embeddings": False}, "gemma models with a head of its own"),
        (
            "qwen3_moe",
            {**MOE, "num_experts": 4, "moe_intermediate_size": 16, "mlp_only_layers": [0]},
            "the layers of this qwen3_moe model are of different kinds",
        ),
    ],
)
def test_architectures_that_mergekit_breaks_are_refused(
    model_type: str, fields: dict[str, Any], told: str, opened: Callable[..., Any]
) -> None:
    family = opened(model_type, **fields).family
    assert told in refused(family, Tailoring((of("base:0"), of("base:2"))))


@pytest.mark.parametrize(
    ("origin", "told"),
    [
        ("{math} (adapter on {base})", "member 'math' is an adapter"),
        ("{math}/file.gguf", "member 'math' is a GGUF file"),
        ("{math} of mine", "mergekit can't read a path with ' '"),
        ("{math}+mine", "mergekit can't read a path with ' '"),
        ("{math}@mine", "mergekit can't read a path with ' '"),
    ],
)
def test_members_that_mergekit_cannot_read_are_refused(
    origin: str, told: str, llama: Family, whole: Tailoring
) -> None:
    place = Path(origin.format(**llama.paths).partition(" (")[0])
    if place.suffix == ".gguf":
        place.touch()
    elif not place.exists():
        place.symlink_to(llama.paths["math"])
    sources = {**llama.paths, "math": origin.format(**llama.paths)}
    family = dataclasses.replace(llama, paths=sources)
    mergekit_recipe(family, whole)  # a member that gives nothing is not asked for
    layers = (of("base:0"), of("math:1"))
    assert told in refused(family, Tailoring(layers))


def test_a_repaired_layer_is_refused(llama: Family) -> None:
    digest = llama.fitted.add({"input_layernorm.weight": torch.ones(32)})
    for spec in (of("math:0").with_repair(gain=0.5), of("math:0").with_repair(fitted=digest)):
        told = refused(llama, Tailoring((spec, of("base:1"))))
        assert f"{spec} has weights that are no member's, or a gain" in told


def test_a_link_leads_to_a_member(llama: Family, tmp_path: Path) -> None:
    (tmp_path / "away").symlink_to(Path(llama.paths["math"]).parent)
    sources = {**llama.paths, "math": str(tmp_path / "away" / "math")}
    tailoring = Tailoring((of("base:0"), of("math:1")))
    family = dataclasses.replace(llama, paths=sources)
    recipe = mergekit_recipe(family, tailoring)
    assert f"model: {tmp_path}/away/math\n" in recipe
    assert_same(rebuilt(recipe, tmp_path)[1], family, tailoring)


@pytest.mark.parametrize("damage", ["changed", "missing", "class"])
def test_files_that_are_not_what_was_read_are_refused(
    damage: str, llama: Family, tmp_path: Path
) -> None:
    folder = tmp_path / "math"
    shutil.copytree(llama.paths["math"], folder)
    weights = load_file(folder / "model.safetensors")
    if damage == "changed":  # as where rows were put in another order to fit the base
        weights["lm_head.weight"] = weights["lm_head.weight"].flip(0)
    elif damage == "missing":
        del weights["lm_head.weight"]
    else:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        config["architectures"] = ["LlamaModel"]
        (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    family = dataclasses.replace(llama, paths={**llama.paths, "math": str(folder)})
    told = refused(family, Tailoring((of("math:0"),)))
    expected = "architectures is ['LlamaModel']" if damage == "class" else "lm_head.weight in its"
    assert f"member 'math': {expected}" in told


def test_a_member_with_more_rows_than_the_base_is_refused(
    opened: Callable[..., Any],
    tiny_model: Callable[..., Any],
    tiny_tokenizer: Any,
    llama: Family,
    tmp_path: Path,
) -> None:
    padded = tiny_model("llama", seed=5, vocab_size=llama.config.vocab_size + 8)
    padded.save_pretrained(tmp_path / "padded")
    tiny_tokenizer.save_pretrained(tmp_path / "padded")
    variants = {"math": MemberSpec(path=str(tmp_path / "padded"))}
    family = load_family(MemberSpec(path=llama.paths["base"]), variants, dtype=torch.float32)
    told = refused(family, Tailoring((of("math:0"),)))
    assert "vocabulary was fitted to the base's" in told


@pytest.mark.slow
def test_a_tied_member_with_a_head_in_its_files(opened: Callable[..., Any], tmp_path: Path) -> None:
    tied = opened("llama", tie_word_embeddings=True).family
    sources = {}
    for member, origin in tied.paths.items():
        shutil.copytree(origin, tmp_path / member)
        weights = load_file(tmp_path / member / "model.safetensors")
        weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()
        save_file(weights, tmp_path / member / "model.safetensors", {"format": "pt"})
        sources[member] = MemberSpec(path=str(tmp_path / member))
    family = load_family(sources.pop("base"), sources, dtype=torch.float32)
    assert family.tied
    for part in (of("math"), SLERP):
        tailoring = Tailoring((of("base:0"), SUMS[0]), embedding=part, head=part)
        folder = tmp_path / str(part.method)
        folder.mkdir()
        _, found = rebuilt(mergekit_recipe(family, tailoring), folder)
        assert_same(found, family, tailoring)
        assert torch.equal(found["lm_head.weight"], found["model.embed_tokens.weight"])
    told = refused(family, dataclasses.replace(tailoring, norm=of("code")))
    assert "ties head and embedding and has a head in its files" in told
    (tmp_path / "code" / "model.safetensors").unlink()
    shutil.copy(Path(tied.paths["code"]) / "model.safetensors", tmp_path / "code")
    assert "ties head and embedding" in refused(family, tailoring)


def test_a_tailoring_that_does_not_fit_is_refused(llama: Family) -> None:
    with pytest.raises(TailoringError, match="base:9 does not exist"):
        mergekit_recipe(llama, Tailoring((of("base:9"),)))


# -- the file


def test_the_file_is_replaced_only_where_it_is_ours(
    llama: Family, whole: Tailoring, tmp_path: Path
) -> None:
    file = tmp_path / "deep" / "recipe.yaml"
    export_recipe(llama, whole, file)
    export_recipe(llama, Tailoring((of("math:0"),)), file)
    assert file.read_text(encoding="utf-8").count("layer_range: [0, 1]") == 1
    mine = tmp_path / "mine.yaml"
    mine.write_text("merge_method: linear\n", encoding="utf-8")
    with pytest.raises(ExportError, match="no export of gptailor wrote it"):
        export_recipe(llama, whole, mine)
    with pytest.raises(ExportError, match="made from"):
        export_recipe(llama, whole, mine, overwrite=True, keep=[mine])
    assert mine.read_text(encoding="utf-8") == "merge_method: linear\n"
    export_recipe(llama, whole, mine, overwrite=True)
    assert mine.read_text(encoding="utf-8").startswith("# A recipe for mergekit-multi")


def test_a_members_file_is_never_replaced(llama: Family, whole: Tailoring) -> None:
    config = Path(llama.paths["math"]) / "config.json"
    before = config.read_bytes()
    with pytest.raises(ExportError, match="made from"):
        export_recipe(llama, whole, config, overwrite=True)
    assert config.read_bytes() == before


def test_nothing_is_left_of_a_recipe_that_is_refused(llama: Family, tmp_path: Path) -> None:
    spec = of("math:1", "code:1", merge="dare_linear", density=0.5)
    with pytest.raises(ExportError):
        export_recipe(llama, Tailoring((spec,)), tmp_path / "recipes" / "recipe.yaml")
    assert not list(tmp_path.iterdir())
