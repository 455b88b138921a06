"""Names and the plug-ins they stand for.

A registry maps a name from a config to where its code lives, as ``"module:attribute"``, and imports
that module only when the plug-in is asked for: so the names can be checked, and told with a
"did you mean", without loading anything heavy. Knows nothing of what the plug-ins do.
"""

import importlib
import inspect
from collections.abc import Iterable, Mapping
from typing import Any

from gptailor.errors import ConfigError, unknown

__all__ = ["SEARCHERS", "WORKERS", "Registry"]


class Registry:
    """Plug-ins of one kind, by name.

    Args:
        noun: What one of them is called in a message, such as ``"searcher"``.
        places: Name to ``"module:attribute"``.
        reserved: Arguments that the house fills in, never the user.
        checks: Name to the ``"module:attribute"`` that tells the faults of its options' values, a
            sentence each.
    """

    def __init__(
        self,
        noun: str,
        places: Mapping[str, str],
        reserved: Iterable[str] = (),
        checks: Mapping[str, str] | None = None,
    ) -> None:
        self.noun = noun
        self._places = dict(places)
        self._reserved, self._checks = frozenset(reserved), dict(checks or {})

    @property
    def names(self) -> tuple[str, ...]:
        """Every known name, in the order of registration."""
        return tuple(self._places)

    def get(self, name: str) -> Any:  # a plug-in's type is its protocol's
        """Import and return the plug-in called `name`.

        Raises:
            ConfigError: No plug-in has this name, or a library that it needs is not installed.
        """
        if name not in self._places:
            raise ConfigError(unknown(self.noun, name, self._places))
        try:
            return _imported(self._places[name])
        except ModuleNotFoundError as fault:
            missing = str(fault.name).partition(".")[0]
            if missing == "gptailor":  # our own mistake, not the user's
                raise
            raise ConfigError(
                f"{self.noun} {name!r} needs the library {missing!r}, which is not installed; "
                f"run: pip install {missing}"
            ) from None

    def faults(self, name: str, options: Mapping[str, object]) -> list[str]:
        """Hold options against the plug-in's signature and check; one sentence for each fault."""
        try:
            plugin = self.get(name)
        except ConfigError as fault:
            return list(fault.faults)
        known = self._options(plugin)
        faults = [
            unknown(f"option of {self.noun} {name}", key, known)
            for key in options
            if key not in known
        ]
        if name in self._checks:
            told: list[str] = _imported(self._checks[name])(options)
            faults += told
        return faults

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


SEARCHERS = Registry(
    "searcher",
    {
        "evolution": "gptailor.searchers.evolution:Evolution",
        "random": "gptailor.searchers.random:RandomSearch",
        "greedy": "gptailor.searchers.greedy:Greedy",
        "smac": "gptailor.searchers.smac3:Smac",
        "optuna": "gptailor.searchers.optuna_tpe:OptunaSearch",
    },
    reserved=("space", "objective", "rungs", "max_trials", "seed"),
)

WORKERS = Registry(
    "worker pool",
    {
        "local": "gptailor.workers.local:local_pool",
        "ray": "gptailor.workers.ray.ray_pool:RayPool",
    },
    reserved=("evaluator", "recipe"),
    checks={
        "local": "gptailor.workers.option_checks:local_faults",
        "ray": "gptailor.workers.option_checks:ray_faults",
    },
)
