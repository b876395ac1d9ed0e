"""Calibration: data sources, streaming observers and the table of what they saw.

Running a model is `onnxopt.runtime`'s; the result is plain data that passes take.
"""
