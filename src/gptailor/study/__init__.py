"""The loop, and its record on disk."""

from gptailor.study.journal import Journal
from gptailor.study.plan import Plan, Progress
from gptailor.study.study import Study

__all__ = ["Journal", "Plan", "Progress", "Study"]
