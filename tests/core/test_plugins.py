"""Names and the plug-ins they stand for."""

import inspect
import sys

import pytest

from gptailor.core.plugins import SEARCHERS, WORKERS, Registry
from gptailor.errors import ConfigError, unknown


def plugin(reserved: int, *, speed: float = 1.0, depth: int = 2) -> None:
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
    assert error == "unknown option of plug-in fast 'sped'; did you mean 'speed'? known: speed"


def test_what_the_house_fills_in_is_no_option(plugins: Registry) -> None:
    assert len(plugins.problems("fast", {"depth": 1, "reserved": 1})) == 2


def test_module_and_attribute_are_found_only_after_the_config_named_them(
    plugins: Registry,
) -> None:
    name = "plugin_of_a_test:plugin"
    with pytest.raises(ConfigError, match="unknown plug-in"):
        plugins.get(name)
    assert plugins.load(name) is plugin
    assert plugins.get(name) is plugin


def test_an_attribute_that_is_not_there_is_told(plugins: Registry) -> None:
    with pytest.raises(ConfigError, match="plugin_of_a_test has no such attribute"):
        plugins.load("plugin_of_a_test:plugni")


def test_a_far_name_gets_no_guess() -> None:
    assert unknown("metric", "zebra", ["acc"]) == "unknown metric 'zebra'; known: acc"


@pytest.mark.parametrize("name", SEARCHERS.names)
def test_every_searcher_is_there_and_takes_what_the_house_fills_in(name: str) -> None:
    pytest.importorskip({"smac": "smac", "optuna": "optuna"}.get(name, "gptailor"))
    keys = inspect.signature(SEARCHERS.get(name)).parameters
    assert {"space", "objective", "rungs", "max_trials", "seed"} <= set(keys)
    assert all(key.default is not key.empty for key in list(keys.values())[5:])


@pytest.mark.parametrize("name", WORKERS.names)
def test_every_worker_pool_is_there(name: str) -> None:
    assert WORKERS.problems(name, {}) == []
