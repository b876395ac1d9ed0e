"""Coverage-guided fuzzing of load -> optimize -> save, with atheris.

    pip install atheris
    python tests/fuzz/optimize_model.py corpus/ -max_total_time=600 -rss_limit_mb=2048 -timeout=20

The corpus starts with small models of this file if the folder is empty. Inputs are models as bytes;
half of the mutations are libFuzzer's own, half change the message: operators, attributes, shapes,
edges, tensors. What may happen is a model or an error for the user; a pass that fails is a bug, as
is any other exception, a hang (-timeout) or more memory than -rss_limit_mb.
"""

from __future__ import annotations

import random
import sys
import tempfile
import warnings
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["onnxopt"]):
    from onnxopt.core.errors import OnnxOptError, PassFailedError
    from onnxopt.graph.loading import load_model
    from onnxopt.optimizing import optimize

import onnx
import onnx.defs
import onnx.parser
from google.protobuf.message import DecodeError

warnings.simplefilter("ignore")

_LARGEST = 1 << 16
_SCRATCH = Path(tempfile.mkdtemp(prefix="onnxopt-fuzz-"))
_HEADER = '<ir_version: 10, opset_import: ["" : {opset}, "com.microsoft" : 1]>'
_SEEDS = (
    """g (float[N,3,8,8] x) => (float y)
    <float[4,3,3,3] w = {CONV}, float[4] b = {1,2,3,4}, float[4] s = {1,1,1,1}> {
      p = Constant <value_ints = [0,0,1,1,0,0,1,1]> ()
      a = Pad (x, p) c = Conv (a, w) d = BatchNormalization (c, s, b, b, s)
      e = Relu (d) f = GlobalAveragePool (e) h = Flatten (f) y = Softmax <axis=-1> (h) }""",
    """g (float[B,S,8] x, int64[B,S] i) => (float y)
    <float[8,8] w = {MATRIX}, float[8] b = {1,2,3,4,5,6,7,8}> {
      t = Constant <value_float = 2.0> () m = ReduceMean <axes = [-1]> (x) d = Sub (x, m)
      p = Pow (d, t) v = ReduceMean <axes = [-1]> (p) e = Constant <value_float = 1e-5> ()
      a = Add (v, e) q = Sqrt (a) n = Div (d, q) k = Mul (n, b) l = MatMul (k, w) r = Add (l, b)
      tr = Transpose <perm = [0,2,1]> (r) z = MatMul (r, tr) y = Softmax <axis=-1> (z) }""",
    """g (float[N,M] x, bool c) => (float y) {
      s = Shape (x) z = Constant <value_int = 0> () n = Gather (s, z)
      u = Constant <value_ints = [0]> () q = Unsqueeze (n, u) k = Constant <value_ints = [-1]> ()
      t = Concat <axis = 0> (q, k)
      r = Reshape (x, t) i = Identity (r) y = If (c) <
        then_branch = a () => (float p) { p = Relu (i) },
        else_branch = b () => (float o) { f = Cast <to = 10> (i) o = Cast <to = 1> (f) }> }""",
    """g (float[4,4] x, int64 n) => (float[4,4] y) {
      t = Constant <value = bool {1}> ()
      y = Loop (n, t, x) <body = b (int64 i, bool k, float[4,4] v) => (bool j, float[4,4] o) {
        j = Identity (k) o = Add (v, x) }> }""",
    """g (float[N,16] x) => (float y) <uint8 z = {3}, float s = {0.1},
      int8[16,4] w = {BYTES}, int8 wz = {0}, int64[1] a0 = {0}, int64[1] a1 = {1}> {
      q = QuantizeLinear (x, s, z) d = DequantizeLinear (q, s, z) e = DequantizeLinear (w, s, wz)
      m = MatMul (d, e) g1 = com.microsoft.Gelu (m) p = Slice (g1, a0, a1)
      y = Concat <axis=0> (p, g1) }""",
)
_WEIGHTS = {"CONV": ["0.5"] * 108, "MATRIX": ["0.1"] * 64, "BYTES": ["7"] * 64}


def seeds() -> list[bytes]:
    """Small models with what passes look for."""
    found = []
    for text in _SEEDS:
        for name, numbers in _WEIGHTS.items():
            text = text.replace(name, ",".join(numbers))
        for opset in (11, 17, 21):
            try:
                model = onnx.parser.parse_model(_HEADER.format(opset=opset) + text)
            except onnx.parser.ParseError as error:
                raise SystemExit(f"seed: {error}") from error
            found.append(model.SerializeToString())
    return found


def one_input(data: bytes) -> None:
    """A model, or an error that a user can act on."""
    path = _SCRATCH / "model.onnx"
    path.write_bytes(data)
    try:
        optimize(path, _SCRATCH / "out.onnx", guard="off")
    except PassFailedError:
        raise
    except OnnxOptError:
        return
    load_model(_SCRATCH / "out.onnx")  # what was written can be read


def mutate(data: bytes, max_size: int, seed: int) -> bytes:
    """Changes the bytes, or the message."""
    rng = random.Random(seed)
    if rng.random() < 0.5:
        return bytes(atheris.Mutate(data, max_size))
    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
        for _ in range(rng.randint(1, 4)):
            _change(model, rng)
    except (DecodeError, UnicodeDecodeError):
        return bytes(atheris.Mutate(data, max_size))
    changed = model.SerializeToString()
    return changed if len(changed) <= max_size else data


def _change(model: onnx.ModelProto, rng: random.Random) -> None:
    graph = model.graph
    names = [value.name for value in (*graph.input, *graph.initializer)]
    names += [name for node in graph.node for name in node.output]
    if not graph.node or not names:
        return
    node = rng.choice(graph.node)
    numbers = (-(2**63), -1, 0, 1, 2, 7, 255, 2**31, 2**62)
    match rng.randrange(9):
        case 0:
            node.op_type = rng.choice(_OPERATORS)
        case 1 if node.input:
            node.input[rng.randrange(len(node.input))] = rng.choice(names)
        case 2 if node.input:
            node.input.pop()
        case 3:
            node.input.append(rng.choice([*names, ""]))
        case 4 if node.attribute:
            _change_attribute(rng.choice(node.attribute), rng, numbers)
        case 5 if graph.input:
            dims = rng.choice(graph.input).type.tensor_type.shape.dim
            if dims:
                rng.choice(dims).dim_value = rng.choice(numbers)
        case 6 if graph.initializer:
            tensor = rng.choice(graph.initializer)
            if tensor.dims:
                tensor.dims[rng.randrange(len(tensor.dims))] = rng.choice(numbers)
        case 7 if model.opset_import:
            model.opset_import[0].version = rng.randint(-1, 25)
        case _:
            graph.node.add().CopyFrom(node)
            graph.node[-1].output[:] = [f"{name}_" for name in node.output]
            if graph.output and node.output:
                graph.output[0].name = graph.node[-1].output[0]


def _change_attribute(
    attribute: onnx.AttributeProto, rng: random.Random, numbers: tuple[int, ...]
) -> None:
    attribute.i = rng.choice(numbers)
    if attribute.ints:
        attribute.ints[rng.randrange(len(attribute.ints))] = rng.choice(numbers)
    if rng.random() < 0.2:
        attribute.type = rng.randint(0, 14)


_OPERATORS = sorted({schema.name for schema in onnx.defs.get_all_schemas()})


def main() -> None:
    folders = [Path(argument) for argument in sys.argv[1:] if not argument.startswith("-")]
    for folder in folders[:1]:
        folder.mkdir(parents=True, exist_ok=True)
        if not any(folder.iterdir()):
            for number, data in enumerate(seeds()):
                (folder / f"seed{number}.onnx").write_bytes(data)
    atheris.Setup([*sys.argv, f"-max_len={_LARGEST}"], one_input, custom_mutator=mutate)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
