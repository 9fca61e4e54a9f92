"""Graphs with an int8 KV cache beside those with a float32 one."""
