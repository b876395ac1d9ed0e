"""Add, Sum and the fused operator before a LayerNormalization, in ONNX Runtime on one thread.

    python benchmarks/residual_forms.py

Twenty pairs in a row; each line gives the speed against Add + LayerNormalization left unfused.
"""

from __future__ import annotations

import numpy as np
import onnx.parser
import onnxruntime as ort
from measuring import latency_ratios

_HIDDEN = 384


def chain(op_type: str, *, fuse: bool) -> ort.InferenceSession:
    """Twenty times LayerNormalization(op(x, s)); `fuse` lets the runtime make it one operator."""
    body, current = [], "x"
    for index in range(20):
        body.append(f"a{index} = {op_type}({current}, s)")
        body.append(f"n{index} = LayerNormalization <axis = -1> (a{index}, w, b)")
        current = f"n{index}"
    inputs = f"float[B, S, {_HIDDEN}] x, float[B, S, {_HIDDEN}] s, float[{_HIDDEN}] w, "
    text = (
        '<ir_version: 8, opset_import: ["" : 17]> '
        f"g ({inputs} float[{_HIDDEN}] b) => (float[B, S, {_HIDDEN}] {current}) "
        f"{{ {' '.join(body)} }}"
    )
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(
        onnx.parser.parse_model(text).SerializeToString(),
        options,
        providers=["CPUExecutionProvider"],
        disabled_optimizers=[] if fuse else ["SkipLayerNormFusion"],
    )


def main() -> None:
    draw = np.random.default_rng(0).standard_normal
    for batch, sequence in ((1, 16), (1, 128), (8, 128)):
        size = (batch, sequence, _HIDDEN)
        shapes = {"x": size, "s": size, "w": (_HIDDEN,), "b": (_HIDDEN,)}
        feeds = {name: draw(shape).astype(np.float32) for name, shape in shapes.items()}
        others = [chain("Sum", fuse=True), chain("Add", fuse=True)]
        total, fused = latency_ratios(chain("Add", fuse=False), others, feeds)
        print(f"{batch}x{sequence}x{_HIDDEN}: Sum {total[0]:.2f}, SkipLayerNorm {fused[0]:.2f}")


if __name__ == "__main__":
    main()
