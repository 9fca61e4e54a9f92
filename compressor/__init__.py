"""Search a decoder LLM for an uneven subnet that meets a measured latency target, and export it."""
