"""Running models: the only importer of onnxruntime (sessions, inputs, parity, measurement)."""
