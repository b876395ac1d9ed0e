"""The contract: passes, the pipeline that runs them, the rewrite driver, reports and errors.

Imports onnx_ir and onnxscript.rewriter only. Everything else in onnxopt may import this layer.
"""
