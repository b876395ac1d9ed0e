"""Peak memory of calibrating an encoder of BERT's size with every way to choose ranges.

    python benchmarks/calibration_memory.py [--samples 512] [--layers 12] [--max-memory MB]

A graph of BERT-base's shape (12 layers, 768 wide, 30,522 tokens, random weights, about 440 MB) is
calibrated on input sets of 128 tokens in a process of its own; one run over the data feeds all
observers, so one figure covers percentile and entropy. Beside it, onnxruntime.quantization's
entropy and percentile calibration of the same values, on as many samples as `--others` says.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
from measuring import run_process
from onnx import TensorProto, helper, numpy_helper

_WIDTH, _HEADS, _TOKENS, _LENGTH = 768, 12, 30522, 128


class _Graph:
    """A graph that grows by nodes and random weights."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self._random = np.random.default_rng(0)

    def add(self, op_type: str, *inputs: str, **attributes: object) -> str:
        """Adds a node; the result is the name of its output."""
        name = f"{op_type}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op_type, list(inputs), [name], name=name, **attributes))
        return name

    def weight(self, *shape: int) -> str:
        """Adds a weight."""
        array = self._random.standard_normal(shape, np.float32) / np.float32(shape[0] ** 0.5)
        return self.constant(array)

    def constant(self, array: np.ndarray) -> str:
        """Adds a constant."""
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def linear(self, value: str, inputs: int, outputs: int) -> str:
        """A product with a bias."""
        product = self.add("MatMul", value, self.weight(inputs, outputs))
        return self.add("Add", product, self.weight(outputs))

    def normalized(self, value: str) -> str:
        """A LayerNormalization."""
        return self.add("LayerNormalization", value, self.weight(_WIDTH), self.weight(_WIDTH))


def build(path: Path, layers: int) -> None:
    """Writes the encoder."""
    graph = _Graph()
    heads = graph.constant(np.array([0, 0, _HEADS, _WIDTH // _HEADS]))
    merged = graph.constant(np.array([0, 0, _WIDTH]))
    scale = graph.constant(np.float32((_WIDTH / _HEADS) ** -0.5))
    value = graph.normalized(graph.add("Gather", graph.weight(_TOKENS, _WIDTH), "ids"))
    for _ in range(layers):
        query, key, content = (
            graph.add("Reshape", graph.linear(value, _WIDTH, _WIDTH), heads) for _ in range(3)
        )
        query = graph.add("Transpose", query, perm=[0, 2, 1, 3])
        key = graph.add("Transpose", key, perm=[0, 2, 3, 1])
        content = graph.add("Transpose", content, perm=[0, 2, 1, 3])
        scores = graph.add("Mul", graph.add("MatMul", query, key), scale)
        mixed = graph.add("MatMul", graph.add("Softmax", scores, axis=-1), content)
        mixed = graph.add("Reshape", graph.add("Transpose", mixed, perm=[0, 2, 1, 3]), merged)
        value = graph.normalized(graph.add("Add", graph.linear(mixed, _WIDTH, _WIDTH), value))
        wide = graph.add("Gelu", graph.linear(value, _WIDTH, 4 * _WIDTH))
        value = graph.normalized(graph.add("Add", graph.linear(wide, 4 * _WIDTH, _WIDTH), value))
    entry = helper.make_tensor_value_info("ids", TensorProto.INT64, [1, "length"])
    result = helper.make_tensor_value_info(value, TensorProto.FLOAT, [1, "length", _WIDTH])
    made = helper.make_graph(graph.nodes, "encoder", [entry], [result], graph.weights)
    onnx.save(helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)]), path)


def collect_ours(source: str, samples: int, max_memory: int) -> None:
    """Calibrates with all observers and prints how many values got a range by each method."""
    from onnxopt.calibration.collecting import collect
    from onnxopt.calibration.data import open_data
    from onnxopt.graph.loading import load_model
    from onnxopt.graph.quantization import Encoding
    from onnxopt.quantizing.forms import observed_names

    model = load_model(source)
    data = open_data(_feeds(samples), model)
    table = collect(model, observed_names(model), data, max_memory=max_memory << 20)
    for method in ("percentile", "entropy"):
        print(method, len(table.ranges(method, Encoding())))


def collect_theirs(source: str, samples: int, method: str) -> None:
    """The same with onnxruntime.quantization."""
    from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod
    from onnxruntime.quantization.calibrate import create_calibrator

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._feeds = iter(_feeds(samples))

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self._feeds, None)

    chosen = CalibrationMethod[method]
    calibrator = create_calibrator(
        Path(source),
        ["MatMul"],
        augmented_model_path=f"{source}.augmented.onnx",  # by default in the current folder
        calibrate_method=chosen,
    )
    calibrator.collect_data(Reader())
    print(method, len(calibrator.compute_data().data))


def _feeds(samples: int) -> list[dict[str, np.ndarray]]:
    random = np.random.default_rng(1)
    return [{"ids": random.integers(0, _TOKENS, (1, _LENGTH))} for _ in range(samples)]


def main() -> None:
    """Builds the model and measures each way in a process of its own."""
    if sys.argv[1:2] == ["--ours"]:
        collect_ours(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
        return
    if sys.argv[1:2] == ["--theirs"]:
        collect_theirs(sys.argv[2], int(sys.argv[3]), sys.argv[4])
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=512)
    parser.add_argument("--others", type=int, default=16)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--max-memory", type=int, default=512)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "encoder.onnx")
        build(source, arguments.layers)
        size = source.stat().st_size / 1e6
        runs = {f"onnxopt, {arguments.samples} samples": ["--ours", str(arguments.samples)]}
        for method in ("Percentile", "Entropy") if arguments.others else ():
            name = f"onnxruntime {method}, {arguments.others} samples"
            runs[name] = ["--theirs", str(arguments.others), method]
        for name, (kind, count, *rest) in runs.items():
            more = rest or [str(arguments.max_memory)]
            command = [sys.executable, __file__, kind, str(source), count, *more]
            run = run_process(command, timeout=3600)
            told = " ".join(run.output.split()[-4:]) if run.code == 0 else run.output[-200:]
            print(
                f"{name:36} {run.peak_mb:,.0f} MB: the model ({size:,.0f} MB) and "
                f"{run.peak_mb - size:,.0f} MB; {run.seconds:.0f} s; {told}",
                flush=True,
            )


if __name__ == "__main__":
    main()
