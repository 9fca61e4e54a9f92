"""The default method with faster reconstruction, for models of more than some ten million parameters.

Blocks are solved one projection at a time, on a part of the text, and the subnet as a whole is refined with
curvature from a part of it. On a large model, what `lathe` gains beyond that is small for the time it takes.
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
        whole_rounds=2,
        on_samples=True,
        sensitivities=measure_sensitivities,
    ),
)
