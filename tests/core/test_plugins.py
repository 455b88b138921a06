"""Names and the plug-ins they stand for."""

import inspect
import math
import sys
from pathlib import Path
from typing import Annotated, get_origin

import pytest

from gptailor.core.params import Choice, Range
from gptailor.core.plugins import (
    SEARCHERS,
    WORKERS,
    Registry,
    import_modules,
    option_problems,
    options_of,
)
from gptailor.errors import ConfigError, unknown

NUMBER = 3


def at_most(n: int) -> Range:
    return Range(0, n)


def plugin(
    reserved: int,
    *,
    speed: float = 1.0,
    depth: int = 2,
    count: Annotated[int, Range(1, math.inf)] = 3,
    limit: Annotated[int | None, Range(0, 9)] = None,
    name: Annotated[str, Choice(("a", "b"))] = "a",
    index: Annotated[int, at_most] = 0,
    loud: bool = False,
    path: Path = Path(),
) -> None:
    """A plug-in of this test."""


@pytest.fixture
def plugins(monkeypatch: pytest.MonkeyPatch) -> Registry:
    monkeypatch.setitem(sys.modules, "plugin_of_a_test", sys.modules[__name__])
    places = {
        "fast": "plugin_of_a_test:plugin",
        "foreign": "no_such_library.module:thing",
        "ours": "gptailor.no_such_module:thing",
    }
    return Registry("plug-in", places, reserved=("depth",))


def test_a_name_gives_the_plugin(plugins: Registry) -> None:
    assert plugins.get("fast") is plugin


def test_an_unknown_name_is_told_with_the_one_that_was_meant(plugins: Registry) -> None:
    with pytest.raises(ConfigError) as error:
        plugins.get("fats")
    assert error.value.problems == (
        "unknown plug-in 'fats'; did you mean 'fast'? known: fast, foreign, ours",
    )


def test_a_library_that_is_missing_is_the_users_to_install(plugins: Registry) -> None:
    with pytest.raises(ConfigError, match=r"needs the library 'no_such_library'.*pip install"):
        plugins.get("foreign")
    assert len(plugins.problems("foreign", {})) == 1


def test_a_module_of_ours_that_is_missing_is_our_own_mistake(plugins: Registry) -> None:
    with pytest.raises(ModuleNotFoundError):
        plugins.get("ours")


def test_options_are_held_against_the_signature(plugins: Registry) -> None:
    assert plugins.problems("fast", {"speed": 2.0}) == []
    (error,) = plugins.problems("fast", {"sped": 2.0})
    assert error.startswith("unknown option of plug-in fast 'sped'; did you mean 'speed'? known: ")
    assert "depth" not in error


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("speed", "fast", "must be a number, not 'fast'"),
        ("count", 0, "must be a whole number of 1 or more, not 0"),
        ("count", 2.0, "must be a whole number, not 2.0; write it without a point"),
        ("count", True, "must be a whole number of 1 or more, not True"),
        ("count", None, "must be a whole number of 1 or more, not None"),
        ("limit", 10, "must be a whole number from 0 to 9, not 10"),
        ("name", "c", "must be one of a, b, not 'c'"),
        ("index", "x", "must be a whole number, not 'x'"),
        ("loud", 1, "must be true or false, not 1"),
    ],
)
def test_a_value_is_checked_against_its_declaration(
    plugins: Registry, key: str, value: object, message: str
) -> None:
    assert plugins.problems("fast", {key: value}) == [f"plug-in.options.{key}: {message}"]


def test_values_within_their_declaration_have_no_problem(plugins: Registry) -> None:
    options = {"speed": 2, "count": 10**9, "limit": None, "name": "b", "index": 5, "loud": True}
    assert plugins.problems("fast", {**options, "path": "a/b"}) == []


def test_limits_that_only_a_run_knows_are_checked_with_it() -> None:
    def problems(*context: object) -> list[str]:
        return option_problems(options_of(plugin), {"index": 5}, "plug-in", "run.options", context)

    assert problems() == problems(5) == []
    assert problems(4) == ["run.options.index: must be a whole number from 0 to 4, not 5"]


def test_an_option_without_a_default_must_be_given() -> None:
    def needy(*, depth: int) -> None:
        """Has an option without a default."""

    def problems(options: dict[str, object]) -> list[str]:
        return option_problems(options_of(needy), options, "plug-in", "run.options")

    assert problems({}) == ["run.options.depth: is missing"]
    assert problems({"depth": 1}) == []


def test_what_can_not_be_called_is_told(plugins: Registry) -> None:
    (message,) = plugins.problems("plugin_of_a_test:NUMBER", {})
    assert message.startswith("plug-in 'plugin_of_a_test:NUMBER' has no usable signature: ")


def test_what_the_program_fills_in_is_no_option(plugins: Registry) -> None:
    assert len(plugins.problems("fast", {"depth": 1, "reserved": 1})) == 2


def test_module_and_attribute_are_found_only_after_the_config_named_them(
    plugins: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "planted_plugin.py").write_text("def thing(*, speed: float = 1.0): ...\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ConfigError, match="unknown plug-in"):
        plugins.get("planted_plugin:thing")
    assert "planted_plugin" not in sys.modules
    assert plugins.load("planted_plugin:thing") is plugins.get("planted_plugin:thing")


def test_module_and_attribute_are_found_where_the_module_is_imported(plugins: Registry) -> None:
    assert plugins.get("plugin_of_a_test:plugin") is plugin


def test_facts_of_a_record_stand_in_for_a_plugin_that_is_not_loaded(plugins: Registry) -> None:
    plugins.remember("nowhere.module:thing", "its facts")
    assert plugins.get("nowhere.module:thing") == "its facts"
    assert "nowhere.module:thing" not in plugins


def test_a_module_that_can_not_be_imported_is_told() -> None:
    with pytest.raises(ConfigError, match="--import no_such_module: can't be imported"):
        import_modules(["no_such_module"])


def test_an_attribute_that_is_not_there_is_told(plugins: Registry) -> None:
    with pytest.raises(ConfigError, match="plugin_of_a_test has no such attribute"):
        plugins.load("plugin_of_a_test:plugni")


def test_a_far_name_gets_no_guess() -> None:
    assert unknown("metric", "zebra", ["acc"]) == "unknown metric 'zebra'; known: acc"


@pytest.mark.parametrize("name", SEARCHERS.names)
def test_every_searcher_takes_a_context_and_options_with_types_limits_and_defaults(
    name: str,
) -> None:
    pytest.importorskip({"smac": "smac", "optuna": "optuna"}.get(name, "gptailor"))
    context, *options = inspect.signature(SEARCHERS.get(name)).parameters.values()
    assert context.name == "context"
    assert options
    for option in options:
        assert option.kind is option.KEYWORD_ONLY
        assert option.default is not option.empty
        assert get_origin(option.annotation) is Annotated
    assert SEARCHERS.problems(name, SEARCHERS.defaults(name)) == []


@pytest.mark.parametrize("name", WORKERS.names)
def test_every_worker_pool_is_there(name: str) -> None:
    assert WORKERS.problems(name, {}) == []
