"""onnxopt."""
