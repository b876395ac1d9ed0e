"""Two repairs that `quantize` lacks, and what they cost: outliers in float, 16-bit activations.

    python benchmarks/int8_alternatives.py

One product of the sizes of MiniLM's, activations with a few channels 20 times as large as the
others. Every row: error of the product relative to float32, and speed against the float32 product
in interleaved rounds. "outliers in float" computes the largest channels apart, as LLM.int8() does
(Dettmers et al., 2022): Gather, a float product of 8 rows, and an Add behind the 8-bit one.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxopt.calibration.collecting import collect
from onnxopt.calibration.data import open_data
from onnxopt.graph.calibrated import ChannelScales, Ranges
from onnxopt.graph.quantization import Encoding, IntegerType
from onnxopt.passes.quantization import InsertQdq, QuantizeDynamic, SmoothActivations
from onnxopt.runtime.inputs.plan import InputSet
from onnxopt.runtime.measuring.speed import measure_speed
from onnxopt.runtime.session import open_session
from onnxopt.targets import Target

SIZES = ((128, 384, 1536), (128, 1536, 384), (512, 384, 1536))
_OUTLIERS, _FACTOR = 8, 20.0
_SECONDS = 6.0
SATURATES = Target().eight_bit_products_saturate


def build(rows: int, arrays: dict[str, NDArray[Any]], body: str) -> ir.Model:
    """A model of one input, whose constants are given."""
    length, outputs = arrays["w"].shape
    declared = [f"{'int64' if n == 'i' else 'float'}[{','.join('A' * a.ndim)}] {n}"
                for n, a in arrays.items()]  # fmt: skip
    model = ir.from_onnx_text(
        '<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]>'
        f"g (float[{rows}, {length}] x, {', '.join(declared)})"
        f" => (float[{rows}, {outputs}] y) {{ {body} }}"
    )
    for node in model.graph:
        node.name = f"{node.op_type}_{node.outputs[0].name}"
    for value in list(model.graph.inputs[1:]):
        model.graph.inputs.remove(value)
        array = arrays[value.name or ""]
        value.const_value, value.shape = ir.tensor(array, name=value.name), ir.Shape(array.shape)
        if value.uses():
            model.graph.register_initializer(value)
    return model


def dynamic(model: ir.Model) -> ir.Model:
    """With 8-bit products, but for that of the outliers."""
    result = model.clone()
    QuantizeDynamic(reduce_range=SATURATES, exclude=("MatMul_d",))(result)
    return result


def static(model: ir.Model, samples: list[dict[str, Any]], kind: IntegerType) -> ir.Model:
    """With calibrated activations of a type."""
    result, data = model.clone(), open_data(samples, model)
    table = collect(model, ["x", "y"], data)
    ranges = Ranges(table.ranges("min-max", Encoding(kind)))
    InsertQdq(ranges=ranges, activation_type=kind, reduce_range=SATURATES)(result)
    return result


def main() -> None:
    print("| rows x K x N | form | error | speed |\n|---|---|---|---|")
    for rows, length, outputs in SIZES:
        rng = np.random.default_rng(0)
        size = np.ones(length, np.float32)
        outliers = rng.choice(length, _OUTLIERS, replace=False)
        size[outliers] = _FACTOR
        weight = (rng.standard_normal((length, outputs)) / np.sqrt(length)).astype(np.float32)
        samples = [
            {"x": (rng.standard_normal((rows, length)) * size).astype(np.float32)} for _ in range(8)
        ]
        kept = weight.copy()
        kept[outliers] = 0
        mask = (size == 1).astype(np.float32)
        arrays = {"w": weight, "k": kept, "o": weight[outliers], "i": outliers, "m": mask}
        plain = build(rows, arrays, "y = MatMul(x, w)")
        split = build(
            rows,
            arrays,
            "a = Mul(x, m) b = MatMul(a, k) c = Gather<axis=1>(x, i) d = MatMul(c, o)"
            " y = Add(b, d)",
        )
        smooth = plain.clone()
        SmoothActivations(scales=ChannelScales({"x": size}), insert=True)(smooth)

        forms = {
            "dynamic": dynamic(plain),
            "dynamic, a Mul inserted (repair `insert`)": dynamic(smooth),
            "dynamic, outliers in float": dynamic(split),
            "static": static(plain, samples, "uint8"),
            "static, 16-bit activations": static(plain, samples, "uint16"),
        }
        expected = open_session(plain).run(samples[0])["y"]
        for name, model in forms.items():
            error = open_session(model).run(samples[0])["y"] - expected
            relative = float(np.linalg.norm(error) / np.linalg.norm(expected))
            ratio = measure_speed(plain, model, [InputSet(samples[0], "")], _SECONDS, threads=1)
            shape = f"{rows} x {length} x {outputs}"
            print(f"| {shape} | {name} | {relative:.4f} | {ratio.median:.2f}x |", flush=True)


if __name__ == "__main__":
    main()
