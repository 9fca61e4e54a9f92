"""The format of our ONNX graphs, as their metadata name it."""

GRAPH_FORMAT = "lathe-onnx/1"
