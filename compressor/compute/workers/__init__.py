"""Workers: the work of a run is done in this process, or spread over others."""

from lathe.compressor.compute.workers.base import LocalWorkers, Workers
from lathe.compressor.compute.workers.shards import SHARDS, Sharded, shards_of, some_of, summed

__all__ = ["SHARDS", "LocalWorkers", "Sharded", "Workers", "shards_of", "some_of", "summed"]
