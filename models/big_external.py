"""A chain of MatMul, Add and Relu with gigabytes of float32 weights in external data.

The weights are written one after the other, so that no more than one is in memory. Every node
depends on the input: there is nothing to fold.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import onnx
from onnx import helper
from spec import Input, ModelSpec

WIDTH = 4096


def big_external(gigabytes: float = 2.0) -> ModelSpec:
    """A chain whose weights take that many gigabytes (2^30 bytes), 64 MiB a layer."""
    return ModelSpec(
        name=f"big_external_{gigabytes:g}gb",
        source="synthetic, seeded random weights",
        opset=18,
        inputs={"x": Input("float32", ("batch", WIDTH))},
        tolerance=1e-5,
        build=partial(_build, round(gigabytes * 2**30 / (4 * WIDTH * WIDTH))),
    )


def _build(layers: int, path: Path) -> None:
    generator = np.random.default_rng(0)
    data = path.with_name(f"{path.name}.data")
    nodes, initializers = [], []
    value = "x"
    with data.open("wb") as stream:
        for layer in range(layers):
            weight, bias, product, sum_, result = (
                f"layer{layer}/{part}" for part in ("weight", "bias", "product", "sum", "result")
            )
            for name, shape in ((weight, (WIDTH, WIDTH)), (bias, (WIDTH,))):
                array = generator.standard_normal(shape, dtype=np.float32)
                array *= np.float32((2 / WIDTH) ** 0.5)
                start = stream.tell()
                array.tofile(stream)
                initializers.append(_external(name, shape, data.name, start, array.nbytes))
            nodes.append(helper.make_node("MatMul", [value, weight], [product]))
            nodes.append(helper.make_node("Add", [product, bias], [sum_]))
            nodes.append(helper.make_node("Relu", [sum_], [result]))
            value = result
    graph = helper.make_graph(
        nodes,
        "big_external",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["batch", WIDTH])],
        [helper.make_tensor_value_info(value, onnx.TensorProto.FLOAT, ["batch", WIDTH])],
        initializers,
    )
    opset = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), path)


def _external(
    name: str, shape: tuple[int, ...], location: str, start: int, size: int
) -> onnx.TensorProto:
    """An initializer that says where in the data file its values are."""
    tensor = onnx.TensorProto(name=name, dims=shape, data_type=onnx.TensorProto.FLOAT)
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", str(start)), ("length", str(size))):
        tensor.external_data.add(key=key, value=value)
    return tensor


SPECS = (big_external(),)
