"""What it costs that the body of a loop captures its weights: an LSTM step in a Scan.

    python benchmarks/loop_weights.py

The same model four times, its weights overridable inputs (nothing can be packed), constants around
the Scan, constants in the body, and constants around the Scan without packing; interleaved rounds
in ONNX Runtime, one thread, as speed relative to the first. What differs is whether ONNX Runtime
reuses its memory plan of the body in every iteration.
"""

from __future__ import annotations

import statistics
import time

import numpy as np
import onnx
import onnxruntime

STEP = """<ir_version: 8, opset_import: ["" : 17]>
g (float[1,{h}] h0, float[1,{h}] c0, float[T,1,{h}] x{inputs}) => (float[T,1,{h}] y) {outer} {{
  h1, c1, y = Scan <num_scan_inputs = 1, body = b (float[1,{h}] h, float[1,{h}] c, float[1,{h}] p)
      => (float[1,{h}] hn, float[1,{h}] cn, float[1,{h}] o) {inner} {{
    a = MatMul (p, w)  r = MatMul (h, u)  s = Add (a, r)
    i, g, f, q = Split <axis = 1, num_outputs = 4> (s)
    si = Sigmoid (i)  tg = Tanh (g)  sf = Sigmoid (f)  sq = Sigmoid (q)
    k = Mul (sf, c)  m = Mul (si, tg)  cn = Add (k, m)
    tc = Tanh (cn)  hn = Mul (sq, tc)  o = Identity (hn)
  }}> (h0, c0, x)
}}"""


def model(hidden: int, where: str) -> onnx.ModelProto:
    """The model with its two weights as `inputs`, `outer` or `inner` initializers."""
    weights = ", ".join(f"float[{hidden},{4 * hidden}] {name}" for name in "wu")
    text = STEP.replace("num_outputs = 4", "").replace("<axis = 1, >", "<axis = 1>")
    built = onnx.parser.parse_model(
        text.format(
            h=hidden, inputs=f", {weights}" if where == "inputs" else "", outer="", inner=""
        )
    )
    rng = np.random.default_rng(0)
    graph = built.graph
    body = graph.node[0].attribute[1].g if graph.node[0].attribute[1].HasField("g") else None
    body = body or graph.node[0].attribute[0].g
    for name in "wu":
        array = (rng.standard_normal((hidden, 4 * hidden)) / 4).astype(np.float32)
        (body if where == "inner" else graph).initializer.append(
            onnx.numpy_helper.from_array(array, name)
        )
    return built


def session(proto: onnx.ModelProto, packing: bool) -> onnxruntime.InferenceSession:
    """One thread, everything else as it comes."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    if not packing:
        options.add_session_config_entry("session.disable_prepacking", "1")
    return onnxruntime.InferenceSession(proto.SerializeToString(), options)


def main() -> None:
    print("speed relative to overridable weights (1 thread, 64 steps)\n")
    print("| hidden size | constants around | constants in the body | around, not packed |")
    print("|---|---|---|---|")
    for hidden in (2, 16, 64, 256):
        sessions = [
            session(model(hidden, "inputs"), True),
            session(model(hidden, "outer"), True),
            session(model(hidden, "inner"), True),
            session(model(hidden, "outer"), False),
        ]
        zero = np.zeros((1, hidden), np.float32)
        feeds = {"h0": zero, "c0": zero, "x": np.ones((64, 1, hidden), np.float32)}
        times: list[list[float]] = [[] for _ in sessions]
        for _ in range(150):
            for index, one in enumerate(sessions):
                start = time.perf_counter()
                one.run(None, feeds)
                times[index].append(time.perf_counter() - start)
        base, *others = (statistics.median(each) for each in times)
        print(f"| {hidden} | " + " | ".join(f"{base / each:.2f}" for each in others) + " |")


if __name__ == "__main__":
    main()
