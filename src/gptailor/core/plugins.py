"""Plug-ins by name: ours, those of installed packages, and ``module:attribute``.

A plug-in's module is imported only when the plug-in is asked for: so names can be checked, and told
with a "did you mean", without loading anything heavy.
"""

import importlib
import importlib.metadata
import inspect
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any

from gptailor.errors import ConfigError, unknown

__all__ = ["MERGE_METHODS", "SEARCHERS", "WORKERS", "Registry"]


class Registry:
    """The plug-ins of one kind, by name.

    A plug-in is one of ours, an entry point of an installed package, or ``module:attribute``. The
    last form imports whatever it names, so only `load` resolves it, for names that the user's own
    config gives; `get` finds it once it was loaded. So no tailoring or record imports anything.

    Args:
        noun: What one of them is called in a message, such as ``"searcher"``.
        builtin: Name to ``"module:attribute"``.
        group: The entry point group that other packages add to, such as ``gptailor.searchers``.
        reserved: Arguments that the program fills in, never the user.
        checks: Name to the ``"module:attribute"`` that tells the problems of its options' values, a
            sentence each.
    """

    def __init__(
        self,
        noun: str,
        builtin: Mapping[str, str],
        *,
        group: str | None = None,
        reserved: Iterable[str] = (),
        checks: Mapping[str, str] | None = None,
    ) -> None:
        self.noun = noun
        self.builtin = dict(builtin)
        self._group = group
        self._loaded: dict[str, Any] = {}
        self._reserved, self._checks = frozenset(reserved), dict(checks or {})

    @property
    def names(self) -> tuple[str, ...]:
        """Known names: built in, of installed packages, then loaded as ``module:attribute``."""
        return tuple(dict.fromkeys((*self.builtin, *self._entry_points, *self._loaded)))

    def __contains__(self, name: object) -> bool:
        return name in self._loaded or name in self.builtin or name in self._entry_points

    def load(self, name: str) -> Any:
        """Return the plug-in called `name`; import it where it is ``module:attribute``.

        Raises:
            ConfigError: As `get`; or there is no such module, or nothing of that name in it.
        """
        if name not in self and ":" in name:
            self._loaded[name] = self._imported(name, name)
        return self.get(name)

    def get(self, name: str) -> Any:  # a plug-in's type is its protocol's
        """Return the plug-in called `name`.

        Raises:
            ConfigError: No plug-in has this name, or a library that it needs is not installed.
        """
        if name not in self._loaded:
            place = self.builtin.get(name) or self._entry_points.get(name)
            if place is None:
                raise ConfigError(self._not_found(name))
            self._loaded[name] = self._imported(name, place)
        return self._loaded[name]

    def add(self, place: str, plugin: Any) -> str:
        """Make an object of the running program a plug-in, and return its name.

        Args:
            place: ``module:attribute``, which is its name unless it has another one already.
            plugin: The object.
        """
        for name, known in {**self._entry_points, **self.builtin}.items():
            if known == place:
                return name
        self._loaded[place] = plugin
        return place

    def _not_found(self, name: str) -> str:
        if ":" not in name:
            return unknown(self.noun, name, self.names)
        return (
            f"unknown {self.noun} {name!r}; a module:attribute is imported only where tailor.yaml "
            f"names it: name it there, or install it with an entry point in group {self._group}"
        )

    @cached_property
    def _entry_points(self) -> Mapping[str, str]:
        """Name to ``module:attribute`` of what installed packages add; ours go before theirs."""
        if self._group is None:
            return {}
        found = importlib.metadata.entry_points(group=self._group)
        return {point.name: point.value for point in sorted(found, key=lambda point: point.name)}

    def _imported(self, name: str, place: str) -> Any:
        try:
            return _imported(place)
        except ModuleNotFoundError as error:
            missing = str(error.name).partition(".")[0]
            if missing == "gptailor":  # our own mistake, not the user's
                raise
            raise ConfigError(
                f"{self.noun} {name!r} needs the library {missing!r}, which is not installed; "
                f"run: pip install {missing}"
            ) from None
        except AttributeError:
            raise ConfigError(
                f"{self.noun} {name!r}: {place.partition(':')[0]} has no such attribute; name it "
                "as module:attribute"
            ) from None

    def problems(self, name: str, options: Mapping[str, object]) -> list[str]:
        """Hold options against the plug-in's signature and check; one sentence for each error."""
        try:
            plugin = self.load(name)
        except ConfigError as error:
            return list(error.problems)
        known = self._options(plugin)
        problems = [
            unknown(f"option of {self.noun} {name}", key, known)
            for key in options
            if key not in known
        ]
        if name in self._checks:
            told: list[str] = _imported(self._checks[name])(options)
            problems += told
        return problems

    def defaults(self, name: str) -> dict[str, Any]:
        """The plug-in's options that may be left out, and what they are then.

        Raises:
            ConfigError: No plug-in has this name, or a library that it needs is not installed.
        """
        return {
            key: parameter.default
            for key, parameter in self._options(self.get(name)).items()
            if parameter.default is not inspect.Parameter.empty
        }

    def _options(self, plugin: Any) -> dict[str, inspect.Parameter]:
        return {
            key: parameter
            for key, parameter in inspect.signature(plugin).parameters.items()
            if parameter.kind is inspect.Parameter.KEYWORD_ONLY and key not in self._reserved
        }


def _imported(place: str) -> Any:
    module, _, attribute = place.partition(":")
    return getattr(importlib.import_module(module), attribute)


MERGE_METHODS = Registry(
    "merge method",
    {
        "task_arithmetic": "gptailor.merge.task_arithmetic:task_arithmetic",
        "linear": "gptailor.merge.linear:linear",
        "slerp": "gptailor.merge.slerp:slerp",
        "ties": "gptailor.merge.ties:ties",
        "dare_ties": "gptailor.merge.dare:dare_ties",
        "dare_linear": "gptailor.merge.dare:dare_linear",
        "breadcrumbs": "gptailor.merge.breadcrumbs:breadcrumbs",
        "model_stock": "gptailor.merge.model_stock:model_stock",
    },
    group="gptailor.merge_methods",
)

SEARCHERS = Registry(
    "searcher",
    {
        "evolution": "gptailor.searchers.evolution:Evolution",
        "random": "gptailor.searchers.random:RandomSearch",
        "greedy": "gptailor.searchers.greedy:Greedy",
        "smac": "gptailor.searchers.smac3:Smac",
        "optuna": "gptailor.searchers.optuna_tpe:OptunaSearch",
    },
    group="gptailor.searchers",
    reserved=("space", "objective", "rungs", "max_trials", "seed"),
)

WORKERS = Registry(
    "worker pool",
    {
        "local": "gptailor.workers.local:local_pool",
        "ray": "gptailor.workers.ray.ray_pool:RayPool",
    },
    group="gptailor.workers",
    reserved=("evaluator", "recipe"),
    checks={
        "local": "gptailor.workers.option_checks:local_problems",
        "ray": "gptailor.workers.option_checks:ray_problems",
    },
)
