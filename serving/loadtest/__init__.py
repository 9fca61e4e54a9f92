"""Measures an OpenAI-compatible server from outside: latency, throughput, memory, dense beside subnet.

`lathe.serving.loadtest.compare` holds the two entry points: `run` (one system) and `compare` (two,
interleaved).
"""
