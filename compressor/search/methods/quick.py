"""The default method without its slowest steps, for a first look and for big models on few cores.

Two levels of a block are evaluated instead of five, the final reconstruction corrects output projections
only, and the subnet as a whole is not refined.
"""

from dataclasses import replace
from functools import partial

from lathe.compressor.search.method import methods
from lathe.compressor.search.methods.lathe import LATHE, measure_sensitivities, search

_MEASURED = 2

methods.add(
    "quick",
    replace(
        LATHE,
        name="quick",
        reconstruction="sequential",
        search=partial(search, measured=_MEASURED),
        whole_rounds=0,
        on_samples=True,
        by_gradients=False,
        sensitivities=partial(measure_sensitivities, measured=_MEASURED),
    ),
)
