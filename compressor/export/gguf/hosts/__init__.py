"""Architectures of llama.cpp that models are written as, one declaration each."""

from lathe.compressor.export.gguf.hosts.base import Host, host_of, hosts

__all__ = ["Host", "host_of", "hosts"]
