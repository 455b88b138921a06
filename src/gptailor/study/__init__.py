"""The search loop."""

from gptailor.study.plan import Plan, Progress
from gptailor.study.study import Study

__all__ = ["Plan", "Progress", "Study"]
