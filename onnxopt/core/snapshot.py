"""Going back: a copy of a model's graphs that shares its weights."""

from __future__ import annotations

import onnx_ir as ir


def snapshot(model: ir.Model) -> ir.Model:
    """A copy to go back to. Nodes and values are new, tensors are the same objects."""
    return model.clone()


def restore(model: ir.Model, source: ir.Model) -> None:
    """Makes `model` what `source` is, in place; `source` must not be used afterwards."""
    if source is model:
        return
    model.graph = source.graph
    model.functions.clear()
    model.functions.update(source.functions)
    model.metadata_props.clear()
    model.metadata_props.update(source.metadata_props)
    model.meta.clear()
    model.meta.update(source.meta)
    model.ir_version = source.ir_version
