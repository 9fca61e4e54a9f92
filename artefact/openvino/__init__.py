"""Lathe's ONNX graphs in OpenVINO."""
