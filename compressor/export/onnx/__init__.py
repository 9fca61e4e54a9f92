"""One ONNX graph for prefill and decode, hand-built from a few fused operators."""
