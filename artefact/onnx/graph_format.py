"""The format of our ONNX graphs, as their metadata name it, and where an artefact has its graph."""

from __future__ import annotations

GRAPH_FORMAT = "lathe-onnx/1"
FOLDER = "onnx"
MODEL_FILE = "model.onnx"
DATA_FILE = "model.onnx.data"
SHARED_DATA_FILE = "shared.onnx.data"
"""What several graphs of a family read of."""
GRAPH = f"{FOLDER}/{MODEL_FILE}"
GRAPH_DATA = f"{FOLDER}/{DATA_FILE}"
SHARED_DATA = f"{FOLDER}/{SHARED_DATA_FILE}"
