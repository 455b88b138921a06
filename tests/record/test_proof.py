"""What was measured of a target, as rows of a table."""

from gptailor.record.entries import ProofEntry
from gptailor.record.proof import proof_rows


def test_a_ratio_is_that_of_the_numbers_beside_it() -> None:
    """Also where another job slowed single rounds down, and the median of their ratios differs."""
    rates = {"generation": ((10.0, 2.0, 12.0), (6.0, 12.0, 2.0))}
    sizes = {"parameters": (200, 150)}
    proof = ProofEntry(tailoring="d" * 16, device="cpu", dtype="float32", sizes=sizes, rates=rates)
    assert proof_rows(proof) == [
        ("parameters", "200", "150", "75.0%"),
        ("generation, tokens a second", "10 (2 to 12)", "6 (2 to 12)", "0.60x (0.17 to 6.00)"),
    ]
