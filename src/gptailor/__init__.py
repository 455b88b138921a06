"""GPTailor: make a smaller language model from a family of fine-tuned ones.

The names below are the public interface. Each is imported from its own module when it is first
used, so that ``import gptailor`` loads nothing heavy. The merge methods are called as
``gptailor.merge.merge(name, tensors, base, **params)``.
"""

import importlib
import importlib.metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gptailor import merge as merge
    from gptailor.app.inputs import load_tasks as load_tasks
    from gptailor.app.run import Run as Run, evaluate as evaluate, search as search
    from gptailor.config import Config as Config, load_config as load_config
    from gptailor.core.objective import Goal as Goal, Objective as Objective
    from gptailor.core.tailoring import LayerSpec as LayerSpec, Source as Source
    from gptailor.core.tailoring import Tailoring as Tailoring
    from gptailor.core.trial import Job as Job, Proposal as Proposal
    from gptailor.core.trial import Scores as Scores, Trial as Trial
    from gptailor.engine import Engine as Engine, Evaluator as Evaluator
    from gptailor.errors import GPTailorError as GPTailorError, UserError as UserError
    from gptailor.export import export_checkpoint as export_checkpoint
    from gptailor.family import Family as Family, MemberSpec as MemberSpec
    from gptailor.family import family_of as family_of, load_family as load_family
    from gptailor.report import write_report as write_report
    from gptailor.searchers.searcher import SearchContext as SearchContext
    from gptailor.study import Study as Study

    __version__: str

_HOMES = {
    "app.inputs": ("load_tasks",),
    "app.run": ("Run", "evaluate", "search"),
    "config": ("Config", "load_config"),
    "core.objective": ("Goal", "Objective"),
    "core.tailoring": ("LayerSpec", "Source", "Tailoring"),
    "core.trial": ("Job", "Proposal", "Scores", "Trial"),
    "engine": ("Engine", "Evaluator"),
    "errors": ("GPTailorError", "UserError"),
    "export": ("export_checkpoint",),
    "family": ("Family", "MemberSpec", "family_of", "load_family"),
    "report": ("write_report",),
    "searchers.searcher": ("SearchContext",),
    "study": ("Study",),
}
_HOME = {name: f"gptailor.{module}" for module, names in _HOMES.items() for name in names}
__all__ = sorted([*_HOME, "__version__", "merge"])


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for (PEP 562)."""
    if name == "__version__":
        return importlib.metadata.version("gptailor")
    if name == "merge":  # a module: its function of the same name stays one step further in
        return importlib.import_module("gptailor.merge")
    if name not in _HOME:
        raise AttributeError(f"module 'gptailor' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return __all__
