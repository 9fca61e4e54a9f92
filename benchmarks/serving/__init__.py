"""Our ONNX engine against others: the same weights, one machine, interleaved."""
