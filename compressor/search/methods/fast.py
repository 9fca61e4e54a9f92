"""The default method with faster reconstruction, for models of more than some ten million parameters.

Output projections are solved block after block, on a part of the text, and the subnet as a whole is refined
in one iteration with curvature from half of it; from less, steps overshoot (docs/experiments.md).
"""

from lathe.compressor.search.method import Method, methods
from lathe.compressor.search.methods.lathe import measure_sensitivities, search

methods.add(
    "fast",
    Method(
        "fast",
        importance="elimination",
        reconstruction="sequential",
        search=search,
        default_evaluations=1,
        whole_rounds=1,
        on_samples=True,
        sensitivities=measure_sensitivities,
    ),
)
