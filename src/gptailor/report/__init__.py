"""A run's record becomes one self-contained HTML page.

Reads a study's record and what `gptailor evaluate` left beside it, and nothing else: no weights,
no family, no torch; a run can be reported on another machine, and while it is still going on.
"""

from gptailor.report.page import write_report

__all__ = ["write_report"]
