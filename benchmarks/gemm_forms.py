"""Which spelling of x W + b is the fastest in ONNX Runtime: MatMul + Add, Gemm, Gemm in Reshapes.

Run `python benchmarks/gemm_forms.py`. Chains of four layers, interleaved rounds, one thread, each
form with ONNX Runtime's own optimizations on and off. The numbers that `FuseMatMulAdd` goes by are
in its docstring.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
import onnx
import onnx.helper as oh
import onnx.numpy_helper
import onnxruntime as ort

LAYERS = 4
Builder = Callable[[int, str, str, int, int], list[onnx.NodeProto]]


def matmul_add(i: int, x: str, y: str, rows: int, width: int) -> list[onnx.NodeProto]:
    return [
        oh.make_node("MatMul", [x, f"w{i}"], [f"m{i}"]),
        oh.make_node("Add", [f"m{i}", f"b{i}"], [y]),
    ]


def gemm(i: int, x: str, y: str, rows: int, width: int) -> list[onnx.NodeProto]:
    return [oh.make_node("Gemm", [x, f"w{i}", f"b{i}"], [y])]


def gemm_trans_b(i: int, x: str, y: str, rows: int, width: int) -> list[onnx.NodeProto]:
    return [oh.make_node("Gemm", [x, f"v{i}", f"b{i}"], [y], transB=1)]


def reshaped_gemm(i: int, x: str, y: str, rows: int, width: int) -> list[onnx.NodeProto]:
    return [
        oh.make_node("Reshape", [x, "flat"], [f"f{i}"]),
        oh.make_node("Gemm", [f"f{i}", f"w{i}", f"b{i}"], [f"g{i}"]),
        oh.make_node("Reshape", [f"g{i}", "full"], [y]),
    ]


def build(form: Builder, shape: tuple[int, ...]) -> bytes:
    """A chain of layers with a Relu after each, so that nothing merges across them."""
    width = shape[-1]
    rng = np.random.default_rng(0)
    weights = {"flat": np.array([-1, width]), "full": np.array([1, -1, width])}
    for i in range(LAYERS):
        w = (rng.standard_normal((width, width)) / np.sqrt(width)).astype(np.float32)
        weights |= {f"w{i}": w, f"v{i}": np.ascontiguousarray(w.T)}
        weights |= {f"b{i}": rng.standard_normal(width).astype(np.float32)}
    nodes = []
    for i in range(LAYERS):
        nodes += form(i, f"x{i}", f"y{i}", shape[-2], width)
        nodes.append(oh.make_node("Relu", [f"y{i}"], [f"x{i + 1}"]))
    used = {name for node in nodes for name in node.input}
    graph = oh.make_graph(
        nodes,
        "g",
        [oh.make_tensor_value_info("x0", onnx.TensorProto.FLOAT, shape)],
        [oh.make_tensor_value_info(f"x{LAYERS}", onnx.TensorProto.FLOAT, shape)],
        [onnx.numpy_helper.from_array(v, k) for k, v in weights.items() if k in used],
    )
    model = oh.make_model(graph, opset_imports=[oh.make_opsetid("", 17)], ir_version=10)
    return bytes(model.SerializeToString())


def session(model: bytes, optimized: bool, threads: int) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    level = ort.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimized else level.ORT_DISABLE_ALL
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def measure(
    sessions: dict[str, ort.InferenceSession], shape: tuple[int, ...], rounds: int
) -> dict[str, float]:
    """Median seconds a call, in rounds that go through all sessions."""
    x = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    times: dict[str, list[float]] = {name: [] for name in sessions}
    for _ in range(rounds):
        for name, current in sessions.items():
            current.run(None, {"x0": x})
            start = time.perf_counter()
            for _ in range(5):
                current.run(None, {"x0": x})
            times[name].append((time.perf_counter() - start) / 5)
    return {name: float(np.median(values)) for name, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=30)
    arguments = parser.parse_args()
    flat: dict[str, Builder] = {"MatMul+Add": matmul_add, "Gemm": gemm, "Gemm transB": gemm_trans_b}
    deep: dict[str, Builder] = {"MatMul+Add": matmul_add, "Reshape+Gemm+Reshape": reshaped_gemm}
    for shape, forms in [
        ((1, 384), flat),
        ((1, 1536), flat),
        ((16, 384), flat),
        ((128, 384), flat),
        ((128, 1536), flat),
        ((1, 1, 384), deep),
        ((1, 128, 384), deep),
        ((8, 128, 384), deep),
        ((1, 128, 1536), deep),
    ]:
        for optimized in (True, False):
            sessions = {
                name: session(build(form, shape), optimized, arguments.threads)
                for name, form in forms.items()
            }
            times = measure(sessions, shape, arguments.rounds)
            base = times["MatMul+Add"]
            text = "  ".join(f"{name} {base / seconds:.2f}" for name, seconds in times.items())
            print(f"{shape!s:16} {'on ' if optimized else 'off'} {base * 1e3:7.3f} ms  {text}")


if __name__ == "__main__":
    main()
