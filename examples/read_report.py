"""Prints what an artefact is: its widths layer by layer, and its figures beside the dense model's.

python examples/read_report.py OUT
"""

import sys

import lathe

artefact = lathe.open_artefact(sys.argv[1])
artefact.verify()  # every file is as it was written
for index, layer in enumerate(artefact.plan):
    print(f"layer {index}: {layer.query_heads} query heads, {layer.kv_heads} KV heads, {layer.ffn} channels")
for figure in ("parameters", "weight_bytes", "kv_bytes_per_token", "perplexity"):
    dense, subnet = artefact.report[figure]["dense"], artefact.report[figure]["subnet"]
    print(f"{figure}: {dense:,.6g} dense, {subnet:,.6g} compressed ({subnet / dense:.0%})")
if (measured := artefact.report["latency"]["measured_ms"]) is not None:
    print(f"{artefact.report['latency']['metric']}: {measured:.3f} ms")
