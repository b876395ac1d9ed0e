"""Analyses and helpers on onnx_ir values: files, constants, shapes, partial values, cost.

With runtime/ and export/ the only place where onnx's protobuf classes appear.
"""
