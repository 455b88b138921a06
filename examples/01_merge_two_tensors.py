"""Merge two tensors, as a merged layer does with each of its weights.

Run ``python examples/01_merge_two_tensors.py``; it needs no model. Every method goes by its name;
inputs of any float dtype are merged in float32.
"""

import torch

from gptailor.merge import merge


def main() -> None:
    """Print what some of the methods make of the same two tensors."""
    base = torch.tensor([1.0, 1.0, 1.0, 1.0])
    math = torch.tensor([1.5, 1.0, 0.0, 1.0])
    code = torch.tensor([1.5, 2.0, 1.5, 1.0])
    # the base plus the scaled sum of what each variant changed
    print("task_arithmetic", merge("task_arithmetic", [math, code], base, scale=0.5).tolist())
    # a weighted mean; it needs no base
    print("linear         ", merge("linear", [math, code], weights=[3, 1]).tolist())
    # along the great circle between the two
    print("slerp          ", merge("slerp", [math, code], t=0.5).tolist())
    # trimmed changes, and where the variants disagree in sign the stronger side wins
    print("ties           ", merge("ties", [math, code], base, density=0.5, scale=1.0).tolist())
    # changes dropped by chance, the rest made larger; the same seed drops the same
    print("dare_linear    ", merge("dare_linear", [math, code], base, density=0.5, seed=1).tolist())


if __name__ == "__main__":
    main()
