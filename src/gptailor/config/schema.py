"""Read ``tailor.yaml`` into frozen, checked data.

All problems of a file are raised at once, with a "did you mean" for a misspelt name. Relative paths
count from the config's own folder.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError, ValidationInfo, field_validator, model_validator

from gptailor.config.repair_config import CalibrationConfig, RepairConfig
from gptailor.config.sections import (
    BudgetConfig,
    EngineConfig,
    ExamplesConfig,
    FamilyConfig,
    PluginConfig,
)
from gptailor.config.target_config import TargetConfig
from gptailor.core.merge_spec import MergeSpec, merge_spec, method_name
from gptailor.core.plugins import MERGE_METHODS, SEARCHERS, WORKERS, Registry
from gptailor.core.specs import GENERATION, ChatSpec, MemberSpec, TaskSpec
from gptailor.core.tailoring import BASE
from gptailor.core.validation import (
    Frozen,
    is_recorded,
    not_empty,
    not_many,
    sentences,
)
from gptailor.errors import ConfigError, unknown
from gptailor.files.yaml import read_yaml

__all__ = ["Config", "config_of", "load_config"]

_RANGE = re.compile(r"[0-9]{1,4}\.\.[0-9]{1,4}", re.ASCII)  # of a ladder: 1..8


class Config(Frozen):
    """The whole config."""

    family: FamilyConfig
    target: Annotated[
        TargetConfig | None, Field(description="What the result is to meet, instead of remove.")
    ] = None
    remove: Annotated[
        int | float | tuple[int, ...] | None,
        Field(
            validate_default=True,
            description="Layers to cut, or a share below 1; several numbers are a depth ladder.",
        ),
    ] = None
    merge: Annotated[
        tuple[str, ...],
        Field(description="Merge methods that the search uses: names or module:attribute."),
    ] = ("task_arithmetic",)
    keep: Annotated[
        tuple[Annotated[int, Field(ge=0)], ...], Field(description="Layers never cut.")
    ] = ()
    tasks: Annotated[tuple[TaskSpec, ...], Field(description="What is measured; at least one.")]
    worst_domain: Annotated[
        bool, Field(description="Of the tasks with metric divergence only the worst counts.")
    ] = False
    guard: Annotated[
        bool,
        Field(description="A candidate whose greedy text is dead is chosen only if all are."),
    ] = True
    chat: ChatSpec = ChatSpec()
    examples: ExamplesConfig = ExamplesConfig()
    search: Annotated[PluginConfig, Field(description="How candidates are proposed.")] = (
        PluginConfig(name="evolution")
    )
    workers: Annotated[PluginConfig, Field(description="Where evaluations run.")] = PluginConfig(
        name="local"
    )
    repair: Annotated[
        RepairConfig, Field(description="none, scale or refit: how the cuts are repaired.")
    ] = RepairConfig()
    calibration: CalibrationConfig = CalibrationConfig()
    budget: BudgetConfig = BudgetConfig()
    engine: EngineConfig = EngineConfig()
    seed: Annotated[int, Field(ge=0, lt=2**32, description="Of every random draw.")] = 0

    @field_validator("remove", mode="before")
    @classmethod
    def _count_or_share(cls, value: object, info: ValidationInfo) -> object:
        target = info.data.get("target")
        if value is None:
            if target is None and "target" in info.data:  # else its own problem is named
                raise ValueError("is missing; say how many layers to cut, or give a target")
            return None
        if target is not None and not is_recorded(info):
            raise ValueError("give remove or target, not both")
        if isinstance(value, list | tuple) or (isinstance(value, str) and _RANGE.fullmatch(value)):
            return _depths(value)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or value < 0 or (isinstance(value, float) and value >= 1):  # type: ignore[operator]  # a number here
            raise ValueError(
                "must be a whole number of layers, 0 or more, a share from 0.0 to below 1, or "
                f"several numbers such as [2, 4, 6] or 1..8, not {value!r}"
            )
        return value

    @field_validator("merge", "keep", "tasks", mode="before")
    @classmethod
    def _list_to_tuple(cls, value: object) -> object:
        return tuple(value) if isinstance(value, list) else value

    @field_validator("tasks", mode="before")
    @classmethod
    def _some_task(cls, value: object) -> object:
        return not_many(not_empty(value))

    @field_validator("merge", mode="before")
    @classmethod
    def _methods_to_names(cls, value: object) -> object:
        if not isinstance(value, list | tuple):
            return value
        return tuple(method_name(each) if isinstance(each, MergeSpec) else each for each in value)

    @field_validator("merge")
    @classmethod
    def _known_methods(cls, value: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        for name in value:
            try:
                if not is_recorded(info):
                    MERGE_METHODS.load(name)
                merge_spec(name)
            except ConfigError as error:
                raise ValueError(*error.problems) from None
        return tuple(dict.fromkeys(value))

    @field_validator("search", "workers", mode="before")
    @classmethod
    def _plugin_in_short(cls, value: object) -> object:
        return {"name": value} if isinstance(value, str) else value

    @field_validator("search")
    @classmethod
    def _known_searcher(cls, value: PluginConfig, info: ValidationInfo) -> PluginConfig:
        return _checked_plugin(SEARCHERS, value, info)

    @field_validator("workers")
    @classmethod
    def _known_workers(cls, value: PluginConfig, info: ValidationInfo) -> PluginConfig:
        return _checked_plugin(WORKERS, value, info)

    @model_validator(mode="after")
    def _members_named(self) -> "Config":
        names = [BASE, *self.family.variants]
        problems = []
        for index, task in enumerate(self.tasks):
            if task.metric == "divergence" and task.member is None:
                known = ", ".join(names)
                problems.append(
                    f"tasks[{index}]: metric divergence needs 'member', auto or one of {known}"
                )
            if task.member is not None and task.member not in ("auto", *names):
                problems.append(f"tasks[{index}].member: {unknown('member', task.member, names)}")
        if all(task.name == GENERATION for task in self.tasks):
            problems.append("tasks: generation needs another task beside it; add one")
        if self.worst_domain and all(task.metric != "divergence" for task in self.tasks):
            problems.append("worst_domain: says nothing where no task has the metric divergence")
        if self.family.tokenizer not in names:
            problems.append(f"family.tokenizer: {unknown('member', self.family.tokenizer, names)}")
        problems += _repeated(self.tasks)
        if problems:
            raise ValueError("\n".join(problems))
        return self

    @property
    def ladder(self) -> tuple[int, ...]:
        """The numbers of layers to cut of a depth ladder, rising; none for a single run."""
        return self.remove if isinstance(self.remove, tuple) else ()

    def depths(self, n_layers: int) -> tuple[int, ...]:
        """The numbers of layers to cut of a model with `n_layers`: one, or those of a ladder.

        Raises:
            ConfigError: Nothing would be left, or what must be kept does not exist or leave enough.
        """
        assert self.remove is not None, "a target is resolved first"
        depths = self.remove if isinstance(self.remove, tuple) else (int(self.remove),)
        if isinstance(self.remove, float):
            depths = (round(self.remove * n_layers),)
            if self.remove > 0 and not depths[0]:
                raise ConfigError(
                    f"remove: {self.remove} of {n_layers} layers is less than one layer"
                )
        if depths[-1] > (room := self.room(n_layers)):
            kept = f", for 'keep' has {n_layers - room} of them" if self.keep else ""
            raise ConfigError(
                f"remove: {depths[-1]} of {n_layers} layers can't be cut; at most {room} here{kept}"
            )
        return depths

    def room(self, n_layers: int) -> int:
        """The most layers that may be cut.

        Raises:
            ConfigError: A layer that must be kept does not exist.
        """
        missing = [layer for layer in self.keep if layer >= n_layers]
        if missing:
            raise ConfigError(
                f"keep: layer {missing[0]} does not exist; the last is {n_layers - 1}"
            )
        return n_layers - max(1, len(set(self.keep)))


def load_config(path: Path) -> Config:
    """Read a ``tailor.yaml``.

    Paths in it that are relative to its folder come out absolute.

    Raises:
        ConfigError: Every error of the file, a sentence each with the file and the key.
    """
    return config_of(read_yaml(path), path)


def config_of(plain: object, path: Path | None = None) -> Config:
    """Check what a ``tailor.yaml`` says.

    Args:
        plain: The file's content.
        path: The file; None for a mapping in memory, whose paths count from the current folder.

    Raises:
        ConfigError: Every problem, a sentence each.
    """
    where = "config" if path is None else str(path)
    if not isinstance(plain, dict):
        raise ConfigError(f"{where}: a config is a mapping with 'family', 'remove' and 'tasks'")
    if plain and not Config.model_fields.keys() & plain.keys():
        raise ConfigError(f"{where}: is no tailor.yaml: it has no key of one, such as 'family'")
    try:
        config = Config.model_validate(plain)
    except ValidationError as error:
        raise ConfigError(sentences(where, Config, error)) from None
    try:
        anchored = _anchored(config, Path.cwd() if path is None else path.resolve().parent)
    except (OSError, RuntimeError) as error:  # may not be looked into, or leads round in a circle
        raise ConfigError(f"{where}: has a path that can't be followed: {error}") from None
    problems = _repeated(anchored.tasks)
    if problems:
        raise ConfigError([f"{where}: {sentence}" for sentence in problems])
    return anchored


def _depths(value: Sequence[object] | str) -> tuple[int, ...]:
    """The numbers of a ladder, which must rise."""
    shown = value if isinstance(value, str) else list(value)
    if isinstance(value, str):
        low, high = map(int, value.split(".."))
        value = range(low, high + 1)
    numbers = tuple(n for n in value if isinstance(n, int) and not isinstance(n, bool) and n > 0)
    if len(numbers) != len(value) or len(numbers) < 2 or list(numbers) != sorted(set(numbers)):
        raise ValueError(f"a depth ladder is two or more rising numbers of layers, not {shown}")
    return numbers


def _checked_plugin(registry: Registry, plugin: PluginConfig, info: ValidationInfo) -> PluginConfig:
    if is_recorded(info):
        return plugin
    if problems := registry.problems(plugin.name, plugin.options):
        raise ValueError("\n".join(problems))
    return plugin


def _repeated(tasks: Sequence[TaskSpec]) -> list[str]:
    names = [task.name for task in tasks]
    return [
        f"tasks[{index}].name: {name!r} appears twice"
        for index, name in enumerate(names)
        if name in names[:index]
    ]


def _anchored(config: Config, folder: Path) -> Config:
    """Make the paths that exist beside the config absolute."""

    def place(text: str | None) -> str | None:
        if text is None or text.startswith("package://"):
            return text
        local = text.startswith((".", "/", "~")) or text.endswith((".yaml", ".yml", ".jsonl"))
        local = local or (text.endswith(".gguf") and text.count("/") < 2)  # else one of the hub's
        target = folder / Path(text).expanduser()
        return str(target.resolve()) if local or target.exists() else text

    def member(item: MemberSpec) -> MemberSpec:
        return item.model_copy(update={"path": place(item.path), "base": place(item.base)})

    variants = {name: member(item) for name, item in config.family.variants.items()}
    family = config.family.model_copy(
        update={"base": member(config.family.base), "variants": variants}
    )
    tasks = tuple(
        task.model_copy(update={"name": place(task.name), "test_task": place(task.test_task)})
        for task in config.tasks
    )
    texts = config.calibration.texts
    calibration = config.calibration.model_copy(
        update={"texts": texts and tuple(str(folder / Path(t).expanduser()) for t in texts)}
    )
    return config.model_copy(update={"family": family, "tasks": tasks, "calibration": calibration})
