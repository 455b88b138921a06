"""GPTailor: make a smaller language model from a family of fine-tuned ones.

The names below are the public interface. Each is imported from its own module when it is first
asked for, so that ``import gptailor`` loads nothing heavy. The merge methods are called as
``gptailor.merge.merge(name, tensors, base, **params)``.
"""

import importlib
import importlib.metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gptailor import merge
    from gptailor.app.inputs import load_tasks
    from gptailor.app.open_search import search
    from gptailor.app.run_folder import Run, open_run
    from gptailor.app.score_candidate import evaluate
    from gptailor.config import Config, load_config
    from gptailor.core.objective import Goal, Objective
    from gptailor.core.tailoring import LayerSpec, Source, Tailoring
    from gptailor.core.trial import Job, Proposal, Scores, Trial
    from gptailor.engine import Engine, Evaluator
    from gptailor.errors import GPTailorError, UserError
    from gptailor.export import export_checkpoint
    from gptailor.family import Family, MemberSpec, family_of, load_family
    from gptailor.report import write_report
    from gptailor.searchers.searcher import SearchContext
    from gptailor.study import Study

    __version__: str

__all__ = [
    "Config",
    "Engine",
    "Evaluator",
    "Family",
    "GPTailorError",
    "Goal",
    "Job",
    "LayerSpec",
    "MemberSpec",
    "Objective",
    "Proposal",
    "Run",
    "Scores",
    "SearchContext",
    "Source",
    "Study",
    "Tailoring",
    "Trial",
    "UserError",
    "__version__",
    "evaluate",
    "export_checkpoint",
    "family_of",
    "load_config",
    "load_family",
    "load_tasks",
    "merge",
    "open_run",
    "search",
    "write_report",
]

_HOMES = {
    "app.inputs": ("load_tasks",),
    "app.open_search": ("search",),
    "app.run_folder": ("Run", "open_run"),
    "app.score_candidate": ("evaluate",),
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
    return sorted(__all__)
