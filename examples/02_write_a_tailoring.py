"""Write a smaller model down: which layers stay, where each comes from, and which are merged.

Run ``python examples/02_write_a_tailoring.py``; it needs no model. A tailoring is plain data: it
can be compared, kept in a YAML file, and read back equal.
"""

from gptailor import LayerSpec, Tailoring, UserError

N_LAYERS = 6
MEMBERS = ("base", "math", "code")


def main() -> None:
    """Print a tailoring of a model with six layers, and what is wrong with another."""
    tailoring = Tailoring(
        (
            LayerSpec.of("base:0"),
            LayerSpec.of("math:1"),
            LayerSpec.of("math:2", "code:2", merge="task_arithmetic", scale=0.6),
            # layers 3 and 4 are cut: nothing names them
            LayerSpec.of("code:5"),
        )
    )
    tailoring.check(MEMBERS, N_LAYERS)
    print(tailoring.to_yaml())

    # equal models are equal objects: the sources of a symmetric merge have no order
    swapped = LayerSpec.of("code:2", "math:2", merge="task_arithmetic", scale=0.6)
    print("the same layer either way round:", swapped == tailoring.layers[2])
    print("read back equal:", Tailoring.from_yaml(tailoring.to_yaml()) == tailoring)

    try:
        Tailoring((LayerSpec.of("mth:9"),)).check(MEMBERS, N_LAYERS)
    except UserError as error:
        print("an error is a sentence:", error)


if __name__ == "__main__":
    main()
