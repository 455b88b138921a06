"""What a search was to cost and what it cost, as a small table."""

from typing import TYPE_CHECKING

from rich.table import Table

from gptailor.cli.console import screen

if TYPE_CHECKING:
    from gptailor.record.entries import Costs

__all__ = ["show_costs"]


def show_costs(forecast: "Costs | None", spent: "Costs | None") -> None:
    """Print two entries of a record side by side; nothing where there was no forecast."""
    from gptailor.report.words import cost_rows

    if forecast is None:
        return
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="", pad_edge=False)
    for name in ("cost", "predicted", "actual", "off by"):
        table.add_column(name, justify="left" if name == "cost" else "right")
    for row in cost_rows(forecast, spent):
        table.add_row(*row)
    screen.print(table)
