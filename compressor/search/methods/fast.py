"""The default method with faster reconstruction, for models of more than 30 million decoder parameters.

Output projections are solved block after block, and the subnet as a whole is refined in a few steps
(docs/experiments.md).
"""

from dataclasses import replace

from lathe.compressor.search.method import methods
from lathe.compressor.search.methods.lathe import LATHE

FAST = replace(
    LATHE,
    name="fast",
    reconstruction="sequential",
    whole_rounds=1,
    bfloat16=True,
    in_steps=True,
    by_gradients=False,
)
methods.add(FAST.name, FAST)
