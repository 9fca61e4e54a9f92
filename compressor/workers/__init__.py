"""Where the work of a run is done: in this process, or spread over others."""

from compressor.workers.base import Here, Workers
from compressor.workers.shards import SHARDS, Sharded, shards_of, some_of, summed

__all__ = ["SHARDS", "Here", "Sharded", "Workers", "shards_of", "some_of", "summed"]
