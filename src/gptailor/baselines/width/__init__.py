"""Width pruning: heads and FFN neurons go from every layer instead of whole layers.

A pruned layer has zeros in the columns of ``o_proj`` and ``down_proj`` that belong to them, as
fitted weights, so the engine scores it like any other; an export leaves out as many as are idle in
every layer.
"""
