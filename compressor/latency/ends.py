"""What pruning can reach: milliseconds of the dense model, the smallest subnet, and the head in both."""

from __future__ import annotations

from dataclasses import dataclass

from lathe.artefact.plan import Plan
from lathe.compressor.latency.built_models import TimedModel
from lathe.compressor.latency.effort import QUICK
from lathe.compressor.latency.measure import LatencyBenchmark
from lathe.compressor.latency.table import LatencyTable

_FEW_ROWS = 1024


@dataclass(frozen=True)
class Ends:
    """Milliseconds.

    Attributes:
        dense: Of the dense model with its whole vocabulary.
        unpruned: Of the dense model with the vocabulary that is kept.
        floor: Of the smallest subnet, with the vocabulary that is kept.
        head: Of the head of the smallest subnet, with the vocabulary that is kept.
    """

    dense: float
    unpruned: float
    floor: float
    head: float

    @classmethod
    def of_table(cls, table: LatencyTable, dense: Plan, smallest: Plan) -> Ends:
        """Returns those that a table predicts."""
        whole = table.predict(dense)
        return cls(whole, whole, table.predict(smallest), table.head_in(smallest.head_bits))

    @classmethod
    def measured(cls, benchmark: LatencyBenchmark, smallest: Plan, rows: int) -> Ends:
        """Times them quickly; the smallest subnet with a few rows, too, which tells the head's time.

        Args:
            benchmark: Times the model with the vocabulary that is kept.
            smallest: The smallest subnet.
            rows: The rows of the whole vocabulary.
        """
        shape = benchmark.source.shape
        dense, kept = shape.dense_plan, shape.vocab_size
        few = max(1, min(_FEW_ROWS, kept // 2))
        models = [TimedModel(dense), TimedModel(smallest), TimedModel(smallest, few)]
        if rows != kept:
            models.append(TimedModel(dense, rows))
        found = benchmark.time(models, QUICK, "measure: dense and the smallest subnet")
        unpruned = found[0].dense.median
        floor, narrow, *whole = (unpruned * comparison.ratio for comparison in found)
        head = max(0.0, floor - narrow) * kept / max(1, kept - few)
        return cls(whole[0] if whole else unpruned, unpruned, floor, min(head, floor))
