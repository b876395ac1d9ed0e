"""Fusions into standard ONNX operators, valid on every runtime."""
