"""One latency target in, a smaller language model that meets it out, and a server that proves it."""
