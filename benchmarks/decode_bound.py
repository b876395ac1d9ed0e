"""What limits one token of the 168M-parameter decoder in float32: the products with its weights.

    python benchmarks/decode_bound.py [--rounds 8] [--threads 2] [--folder KEPT]

Every line is a time of its own and a ratio to the original, the median over rounds of fresh
sessions one after the other (where weights lie in memory makes one session up to 10 % faster than
an equal one), with the lowest and highest round.

    products    a model of nothing but the products with constant weights, which no rewrite is
                faster than that leaves these products as they are
    onnxopt     the model as `optimize` leaves it, as it is and in variants

`packed` runs `pack-projections`, `grouped` has rotary embeddings and GroupQueryAttention, `not
prepacked` sets session.disable_prepacking, and `4 bit` compares a packed model with another in
blocks of 128.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.helper
import onnxruntime as ort
from decode_speed import feeds
from onnx import numpy_helper

import onnxopt
from onnxopt.core.pipeline import AnyPass, Repeat
from onnxopt.passes.fusion import FoldQueryGroups, FuseAttention, FuseRotaryEmbedding
from onnxopt.presets import fast
from onnxopt.weight_only import quantize_weights

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "models"))

from cache import materialize
from registry import model as find_model

_RUNS = 15
_GROUPED = FuseAttention(operators=("GroupQueryAttention",), single_prompts=True)


def constant_products(source: Path) -> list[np.ndarray]:
    """The weights of all MatMul and Gemm, which is what one token reads."""
    graph = onnx.load(source).graph
    weights = {one.name: one for one in graph.initializer}
    names = [
        node.input[1]
        for node in graph.node
        if node.op_type in ("MatMul", "Gemm") and node.input[1] in weights
    ]
    return [numpy_helper.to_array(weights[name]) for name in names]


def products_only(weights: list[np.ndarray], path: Path) -> None:
    """A model that multiplies a row with every weight, and adds up one number of each result."""
    nodes, kept, inputs = [], [], {}
    initializers = [
        numpy_helper.from_array(np.zeros(1, np.int64), "zero"),
    ]
    for index, weight in enumerate(weights):
        rows = weight.shape[0]
        inputs[f"x{rows}"] = onnx.helper.make_tensor_value_info(f"x{rows}", 1, (1, 1, rows))
        initializers.append(numpy_helper.from_array(weight, f"w{index}"))
        nodes.append(onnx.helper.make_node("MatMul", [f"x{rows}", f"w{index}"], [f"y{index}"]))
        nodes.append(onnx.helper.make_node("Gather", [f"y{index}", "zero"], [f"z{index}"], axis=2))
        kept.append(f"z{index}")
    nodes.append(onnx.helper.make_node("Sum", kept, ["sum"]))
    output = onnx.helper.make_tensor_value_info("sum", 1, (1, 1, 1))
    graph = onnx.helper.make_graph(nodes, "g", list(inputs.values()), [output], initializers)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)])
    model.ir_version = 8
    onnx.save(model, path)


def session_time(path: Path, threads: int, options: Mapping[str, str]) -> float:
    """Milliseconds of one token in a fresh session."""
    settings = ort.SessionOptions()
    settings.intra_op_num_threads = threads
    settings.log_severity_level = 4
    for key, value in options.items():
        settings.add_session_config_entry(key, value)
    session = ort.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
    if session.get_inputs()[0].name.startswith("x"):
        fed: dict[str, Any] = {
            one.name: np.ones(one.shape, np.float32) for one in session.get_inputs()
        }
    else:
        fed = feeds(session)
    return _timed(lambda: session.run(None, fed))


def _timed(run: Callable[[], Any]) -> float:
    for _ in range(3):
        run()
    times = []
    for _ in range(_RUNS):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return float(np.median(times)) * 1e3


def grouped_preset() -> list[AnyPass | Repeat]:
    """The preset for CPUs with GroupQueryAttention, which it does not use."""
    passes: list[AnyPass | Repeat] = []
    for one in fast("cpu"):
        if isinstance(one, Repeat) and any(isinstance(p, FoldQueryGroups) for p in one.passes):
            rotary, *rest = one.passes
            assert isinstance(rotary, FuseRotaryEmbedding)
            one = dataclasses.replace(
                one, passes=(rotary, _GROUPED, *rest), leads=(one.leads or 0) + 1
            )
        passes.append(one)
    return passes


def build(source: Path, folder: Path) -> dict[str, tuple[Path, dict[str, str]]]:
    """The models to time, with their session options."""
    plain, packed, grouped = (folder / f"{name}.onnx" for name in ("plain", "packed", "grouped"))
    if not plain.exists():
        onnxopt.optimize(source, plain, target="cpu", guard="off")
    if not packed.exists():
        onnxopt.optimize(plain, packed, passes="pack-projections,remove-unused", guard="off")
    if not grouped.exists():
        onnxopt.optimize(source, grouped, passes=grouped_preset(), guard="off")
    small = []
    for path in (plain, packed):
        small.append(path.with_name(f"{path.stem}_4bit.onnx"))
        if not small[-1].exists():
            quantize_weights(path, small[-1], block_size=128, symmetric=True)
    raw = {"session.disable_prepacking": "1"}
    return {
        "original": (source, {}),
        "onnxopt": (plain, {}),
        "onnxopt, packed": (packed, {}),
        "onnxopt, grouped": (grouped, {}),
        "onnxopt, not prepacked": (plain, raw),
        "onnxopt, packed, not prepacked": (packed, raw),
        "4 bit": (small[0], {}),
        "4 bit, packed": (small[1], {}),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="llama168m")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="keep the models here for another run")
    parser.add_argument("--only", nargs="*", help="these lines, and the original")
    arguments = parser.parse_args()
    source = materialize(find_model(arguments.model))
    weights, threads = constant_products(source), arguments.threads
    with tempfile.TemporaryDirectory(dir=source.parent.parent) as scratch:
        folder = arguments.folder or Path(scratch)
        folder.mkdir(exist_ok=True)
        lone = folder / "products.onnx"
        if not lone.exists():
            products_only(weights, lone)
        cases: dict[str, Callable[[], float]] = {
            name: partial(session_time, path, threads, options)
            for name, (path, options) in build(source, folder).items()
        }
        cases["products"] = partial(session_time, lone, threads, {})
        chosen = [name for name in cases if not arguments.only or name in arguments.only]
        report(cases, ["original", *(name for name in chosen if name != "original")],
               arguments.rounds)  # fmt: skip
        size = sum(weight.nbytes for weight in weights)
        print(f"{size / 1e6:.0f} MB of weights, {threads} threads")


def report(cases: Mapping[str, Callable[[], float]], names: list[str], rounds: int) -> None:
    """Times all cases in every round, in an order that rotates, and prints them."""
    table = np.zeros((rounds, len(names)))
    for number in range(rounds):
        for offset in range(len(names)):
            place = (number + offset) % len(names)
            table[number, place] = cases[names[place]]()
    for place, name in enumerate(names):
        base = names.index("4 bit") if name == "4 bit, packed" and "4 bit" in names else 0
        ratios = np.sort(table[:, base] / table[:, place])
        print(
            f"{name:32} {np.median(table[:, place]):6.1f} ms   {np.median(ratios):5.2f} x "
            f"({ratios[0]:.2f} to {ratios[-1]:.2f}) {names[base]}"
        )


if __name__ == "__main__":
    main()
