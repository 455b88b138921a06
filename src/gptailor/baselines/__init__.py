"""Baselines: published procedures that make a tailoring of one member; one paper a file.

A baseline is a function ``(context, *, option=default, ...) -> Tailoring``. It measures the whole
member by `Statistics`, which all baselines of a run share.
"""

from gptailor.baselines.context import BaselineContext
from gptailor.baselines.member_statistics import Statistics

__all__ = ["BaselineContext", "Statistics"]
