"""The loop, and its record on disk."""

from gptailor.study.journal import Journal
from gptailor.study.study import Plan, Progress, Study

__all__ = ["Journal", "Plan", "Progress", "Study"]
