"""Plug-ins by name, each imported only when it is asked for.

The options of a plug-in are the keyword-only parameters of its signature, with type, default and
limits: ``population: Annotated[int, Range(1, 1000)] = 4``.
"""

import importlib
import importlib.metadata
import inspect
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import cached_property
from types import NoneType, UnionType
from typing import Annotated, Any, get_args, get_origin

from gptailor.core.params import Choice, Range
from gptailor.errors import ConfigError, unknown

__all__ = [
    "BASELINES",
    "MERGE_METHODS",
    "SEARCHERS",
    "WORKERS",
    "Registry",
    "import_modules",
    "option_problems",
    "options_of",
]

_PLACE = re.compile(r"[^\W\d]\w*(\.\w+)*:[^\W\d]\w*")  # module:attribute

_KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}


class Registry:
    """The plug-ins of one kind, by name.

    A plug-in is built in, an entry point of an installed package, or ``module:attribute``. The last
    form imports whatever it names, so only `load` resolves it, for names in the user's own config;
    `get` finds it in modules that are imported already. So no tailoring or record imports anything.
    """

    def __init__(
        self,
        noun: str,  # what one of them is called in a message
        builtin: Mapping[str, str],  # name -> module:attribute
        *,
        group: str | None = None,  # of the entry points
        reserved: Iterable[str] = (),  # arguments that the program fills in, never the user
        section: str | None = None,  # of a config that names one; `noun` when None
    ) -> None:
        self.noun, self._section = noun, section or noun
        self.builtin = dict(builtin)
        self._group = group
        self._loaded: dict[str, Any] = {}
        self._recorded: dict[str, Any] = {}
        self._reserved = frozenset(reserved)

    @cached_property
    def _references(self) -> Mapping[str, str]:
        """Name to ``module:attribute``: ours, then what installed packages add."""
        found = importlib.metadata.entry_points(group=self._group) if self._group else ()
        added = {point.name: point.value for point in sorted(found, key=lambda point: point.name)}
        return {**self.builtin, **added, **self.builtin}

    @property
    def names(self) -> tuple[str, ...]:
        """Known names: built in, of installed packages, then loaded as ``module:attribute``."""
        return tuple(dict.fromkeys((*self._references, *self._loaded)))

    def __contains__(self, name: object) -> bool:
        return name in self._loaded or name in self._references

    def load(self, name: str) -> Any:
        """Return the plug-in called `name`; import it where it is ``module:attribute``.

        Raises:
            ConfigError: As `get`; or there is no such module, or nothing of that name in it.
        """
        if name not in self and _PLACE.fullmatch(name):
            self._loaded[name] = self._imported(name, name)
        return self.get(name)

    def get(self, name: str) -> Any:  # a plug-in's type is its protocol's
        """Return the plug-in called `name`.

        Raises:
            ConfigError: No plug-in has this name, or a library that it needs is not installed.
        """
        if name not in self._loaded and name in self._references:
            self._loaded[name] = self._imported(name, self._references[name])
        if name in self._loaded:
            return self._loaded[name]
        found = _of_imported_module(name)
        if found is None and name not in self._recorded:
            raise ConfigError(self._not_found(name))
        return self._recorded[name] if found is None else found

    def remember(self, name: str, facts: Any) -> None:
        """Let `get` return the facts that a record holds of a plug-in that is not loaded."""
        self._recorded[name] = facts

    def add(self, reference: str, plugin: Any) -> str:
        """Make an object of the running program a plug-in; return its name, or `reference`."""
        for name, known in self._references.items():
            if known == reference:
                return name
        self._loaded[reference] = plugin
        return reference

    def _not_found(self, name: str) -> str:
        if not _PLACE.fullmatch(name):
            return unknown(self.noun, name, self.names)
        return (
            f"unknown {self.noun} {name!r}; a module:attribute is imported only where tailor.yaml "
            f"names it: name it there, or install it with an entry point in group {self._group}"
        )

    def _imported(self, name: str, reference: str) -> Any:
        module, _, attribute = reference.partition(":")
        try:
            return getattr(importlib.import_module(module), attribute)
        except ModuleNotFoundError as error:
            missing = str(error.name).partition(".")[0]
            if missing == "gptailor":  # our own mistake, not the user's
                raise
            if name == reference and missing == module.partition(".")[0]:
                raise ConfigError(
                    f"{self.noun} {name!r}: there is no module {error.name!r}; check its name, or "
                    "add its folder to PYTHONPATH"
                ) from None
            raise ConfigError(
                f"{self.noun} {name!r} needs the library {missing!r}, which is not installed; "
                f"run: pip install {missing}"
            ) from None
        except AttributeError:
            raise ConfigError(
                f"{self.noun} {name!r}: {module} has no such attribute; name it as module:attribute"
            ) from None

    def problems(
        self, name: str, options: Mapping[str, object], place: str | None = None
    ) -> list[str]:
        """Check options against the plug-in's signature; one sentence for each problem.

        `place` is where they are given, if not in the config.
        """
        try:
            declared = self._options(name, self.load(name))
        except ConfigError as error:
            return list(error.problems)
        return option_problems(
            declared, options, f"{self.noun} {name}", place or f"{self._section}.options"
        )

    def defaults(self, name: str) -> dict[str, Any]:
        """The plug-in's options that may be left out, and their defaults; raises as `get`."""
        options = self._options(name, self.get(name))
        return {k: each.default for k, each in options.items() if each.default is not each.empty}

    def _options(self, name: str, plugin: Any) -> dict[str, inspect.Parameter]:
        try:
            return {k: v for k, v in options_of(plugin).items() if k not in self._reserved}
        except (TypeError, ValueError, NameError) as error:
            raise ConfigError(f"{self.noun} {name!r} has no usable signature: {error}") from None


def import_modules(names: Iterable[str]) -> None:
    """Import modules that the user named, so that the plug-ins in them are found.

    Raises:
        ConfigError: There is no such module, or it needs one that is not there.
    """
    for name in names:
        try:
            importlib.import_module(name)
        except (ImportError, ValueError) as error:
            raise ConfigError(
                f"--import {name}: can't be imported: {error}; name a module on Python's path"
            ) from None


def _of_imported_module(name: str) -> Any:
    """The object called ``module:attribute``, if that module is imported already; else None."""
    module, _, attribute = name.partition(":")
    return vars(sys.modules[module]).get(attribute) if module in sys.modules else None


def options_of(plugin: Callable[..., object]) -> dict[str, inspect.Parameter]:
    """The keyword-only parameters of a plug-in's signature, with their annotations resolved.

    Raises:
        TypeError, ValueError, NameError: It can't be called, or an annotation can't be resolved.
    """
    parameters = inspect.signature(plugin, eval_str=True).parameters
    return {k: each for k, each in parameters.items() if each.kind is each.KEYWORD_ONLY}


def option_problems(
    declared: Mapping[str, inspect.Parameter],
    options: Mapping[str, object],
    noun: str,
    place: str,
    context: tuple[object, ...] = (),
) -> list[str]:
    """Check options against their declarations, see `options_of`; a sentence for each problem.

    Limits may be functions of `context` that return a `Range` or `Choice`; without `context` those
    are not checked. `noun` has the options, which are given at `place`, such as ``search.options``.
    """
    missing = [k for k, each in declared.items() if each.default is each.empty and k not in options]
    problems = [f"{place}.{key}: is missing" for key in missing]
    for key, value in options.items():
        if key not in declared:
            problems.append(unknown(f"option of {noun}", key, declared))
        elif message := _problem(declared[key].annotation, value, context):
            problems.append(f"{place}.{key}: {message}")
    return problems


def _problem(annotation: Any, value: object, context: tuple[object, ...]) -> str | None:
    kind, *limits = get_args(annotation) if get_origin(annotation) is Annotated else (annotation,)
    kinds = get_args(kind) if isinstance(kind, UnionType) else (kind,)
    if value is None and NoneType in kinds:
        return None
    whole = int in kinds and float not in kinds
    if whole and isinstance(value, float):
        return f"must be a whole number, not {value!r}; write it without a point"
    for limit in limits:
        if callable(limit):
            limit = limit(*context) if context else None
        if isinstance(limit, Range):
            limit = replace(limit, integer=whole)
        if isinstance(limit, Range | Choice) and (message := limit.problem(value)):
            return message
    known = [_KINDS[each] for each in kinds if each in _KINDS]
    fits = type(value) in kinds or (type(value) is int and float in kinds)
    return None if fits or not known else f"must be {' or '.join(known)}, not {value!r}"


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
        "evolution": "gptailor.searchers.evolution:evolution",
        "random": "gptailor.searchers.random:random_search",
        "greedy": "gptailor.searchers.greedy:greedy",
        "smac": "gptailor.searchers.smac3:smac_search",
        "optuna": "gptailor.searchers.optuna_tpe:optuna_search",
    },
    group="gptailor.searchers",
    section="search",
)

WORKERS = Registry(
    "worker pool",
    {"local": "gptailor.workers.local:local_pool", "ray": "gptailor.workers.ray.ray_pool:ray_pool"},
    group="gptailor.workers",
    section="workers",
    reserved=("evaluator", "get_factory"),
)

BASELINES = Registry(
    "baseline",
    {
        "random": "gptailor.baselines.plain_cuts:random",
        "last_n": "gptailor.baselines.plain_cuts:last_n",
        "tail": "gptailor.baselines.plain_cuts:tail",
        "shortgpt": "gptailor.baselines.shortgpt:shortgpt",
        "shortgpt_iterative": "gptailor.baselines.shortgpt:shortgpt_iterative",
        "angular": "gptailor.baselines.angular:angular",
        "window_cosine": "gptailor.baselines.window_cosine:window_cosine",
        "shortened_ppl": "gptailor.baselines.shortened_llama:shortened_ppl",
        "shortened_ppl_plus": "gptailor.baselines.shortened_llama:shortened_ppl_plus",
        "shortened_taylor": "gptailor.baselines.shortened_llama:shortened_taylor",
        "shortened_taylor_plus": "gptailor.baselines.shortened_llama:shortened_taylor_plus",
        "sleb": "gptailor.baselines.sleb:sleb",
        "evopress": "gptailor.baselines.evopress:evopress",
        "laco": "gptailor.baselines.laco:laco",
        "laco_released": "gptailor.baselines.laco:laco_released",
        "mka": "gptailor.baselines.mka:mka",
        "fold": "gptailor.baselines.fold:fold",
        "flatten": "gptailor.baselines.flatten:flatten",
        "wanda_sp": "gptailor.baselines.width.wanda_sp:wanda_sp",
        "slimgpt": "gptailor.baselines.width.slimgpt:slimgpt",
        "slimgpt_log": "gptailor.baselines.width.slimgpt:slimgpt_log",
        "huang": "gptailor.baselines.width.huang:huang",
    },
    group="gptailor.baselines",
)
