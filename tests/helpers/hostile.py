"""A corpus of hostile and broken models: each a function that writes one into a folder.

`CASES` has them by name. What they have in common is what must be true of them all: whatever is
done with one ends soon, in little memory, with one clear line, and touches nothing else.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from helpers.broken_models import (  # type: ignore[import-not-found]
    external_model,
    make_model,
)
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from onnxopt.graph.wire import length_delimited

Write = Callable[[Path], Path]

FLOAT, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL
CASES: dict[str, Write] = {}

_HUGE = 2**62


def _field(number: int, content: bytes) -> bytes:
    """A field of bytes in protobuf's wire format."""
    return length_delimited(number, len(content)) + content


def case(function: Write) -> Write:
    """Adds a case to the corpus, under its function's name."""
    CASES[function.__name__.replace("_", "-")] = function
    return function


def _save(folder: Path, model: onnx.ModelProto | bytes, name: str = "model.onnx") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
    return path


def _graph(
    folder: Path,
    nodes: Sequence[onnx.NodeProto],
    initializers: dict[str, NDArray[Any]] | None = None,
    *,
    shape: Sequence[int | str] | None = ("n",),
    opset: int = 18,
    functions: Sequence[onnx.FunctionProto] = (),
) -> Path:
    """Y = nodes(x)."""
    graph = helper.make_graph(
        nodes,
        "main",
        [helper.make_tensor_value_info("x", FLOAT, shape)],
        [helper.make_tensor_value_info("y", FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in (initializers or {}).items()],
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("f", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10, functions=functions)
    return _save(folder, model)


def _int64(*values: int) -> NDArray[np.int64]:
    return np.array(values, np.int64)


# --- files that are no models


@case
def empty_file(folder: Path) -> Path:
    return _save(folder, b"")


@case
def random_bytes(folder: Path) -> Path:
    return _save(folder, np.random.default_rng(0).bytes(10_000))


@case
def a_pickle(folder: Path) -> Path:
    return _save(folder, b"\x80\x04cos\nsystem\n(S'touch /tmp/owned'\ntR.")


@case
def a_zip(folder: Path) -> Path:
    return _save(folder, b"PK\x03\x04" + bytes(100))


@case
def text(folder: Path) -> Path:
    return _save(folder, b"<html><body>404 Not Found</body></html>")


@case
def git_lfs_pointer(folder: Path) -> Path:
    return _save(folder, b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")


@case
def truncated(folder: Path) -> Path:
    data = make_model().SerializeToString()
    return _save(folder, data[: len(data) // 2])


@case
def zeros(folder: Path) -> Path:
    return _save(folder, bytes(1 << 20))


@case
def length_beyond_the_file(folder: Path) -> Path:
    # Field 7 (the graph) of 2^34 bytes.
    return _save(folder, b"\x08\x0a\x3a\x80\x80\x80\x80\x40")


@case
def varint_without_end(folder: Path) -> Path:
    return _save(folder, b"\x08" + b"\xff" * 1000)


@case
def a_folder(folder: Path) -> Path:
    (folder / "model.onnx").mkdir(parents=True)
    return folder / "model.onnx"


@case
def a_pipe(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    os.mkfifo(folder / "model.onnx")
    return folder / "model.onnx"


@case
def link_to_nothing(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.onnx").symlink_to("gone.onnx")
    return folder / "model.onnx"


# --- protobuf


@case
def nested_600_levels(folder: Path) -> Path:
    """Written by hand: protobuf does not even build such a message."""
    graph = b""
    for _ in range(600):
        attribute = _field(1, b"t") + _field(6, graph) + b"\xa0\x01\x05"  # a graph
        graph = _field(1, _field(4, b"If") + _field(5, attribute))
    return _save(folder, b"\x08\x0a" + _field(7, graph))


@case
def unknown_group_fields(folder: Path) -> Path:
    return _save(folder, b"\xfb\x07" * 5000)


@case
def million_empty_nodes(folder: Path) -> Path:
    return _save(folder, b"\x08\x0a" + _field(7, b"\x0a\x00" * 1_000_000))


@case
def million_empty_strings(folder: Path) -> Path:
    node = helper.make_node("Foo", [""] * 1_000_000, ["y"], domain="odd")
    return _save(folder, make_model([node]))


@case
def name_of_ten_megabytes(folder: Path) -> Path:
    name = "n" * 10_000_000
    nodes = [helper.make_node("Relu", ["x"], [name]), helper.make_node("Relu", [name], ["y"])]
    return _save(folder, make_model(nodes))


@case
def name_is_not_utf8(folder: Path) -> Path:
    return _save(folder, make_model().SerializeToString().replace(b"add_w", b"a\xff\xfe_w"))


@case
def name_with_terminal_codes(folder: Path) -> Path:
    node = helper.make_node("Relu", ["gone\x1b[2J\x1b]0;owned\x07"], ["y"])
    return _save(folder, make_model([node]))


@case
def name_with_line_breaks(folder: Path) -> Path:
    return _save(folder, make_model([helper.make_node("Relu", ["a\nTraceback:\nb"], ["y"])]))


@case
def document_of_fifty_megabytes(folder: Path) -> Path:
    model = make_model()
    model.doc_string = "d" * 50_000_000
    return _save(folder, model)


# --- external data


@case
def external_data_outside(folder: Path) -> Path:
    return Path(external_model(folder, location="../../../../etc/passwd"))


@case
def external_data_absolute(folder: Path) -> Path:
    return Path(external_model(folder, location="/etc/passwd"))


@case
def external_data_linked(folder: Path) -> Path:
    path = Path(external_model(folder, location="link.bin"))
    (folder / "link.bin").symlink_to("/etc/passwd")
    return path


@case
def external_data_is_a_device(folder: Path) -> Path:
    path = Path(external_model(folder, location="link.bin"))
    (folder / "link.bin").symlink_to("/dev/zero")
    return path


@case
def external_data_is_the_model(folder: Path) -> Path:
    return Path(external_model(folder, location="model.onnx"))


@case
def external_data_missing(folder: Path) -> Path:
    return Path(external_model(folder, location="gone.bin"))


@case
def external_data_of_exabytes(folder: Path) -> Path:
    return Path(external_model(folder, offset=str(_HUGE), length=str(_HUGE)))


@case
def external_data_negative(folder: Path) -> Path:
    return Path(external_model(folder, offset="-8"))


# --- tensors


def _with_tensor(folder: Path, change: Callable[[TensorProto], object]) -> Path:
    model = make_model()
    change(model.graph.initializer[0])
    return _save(folder, model)


@case
def tensor_of_exabytes(folder: Path) -> Path:
    return _with_tensor(folder, lambda t: t.dims.__setitem__(0, _HUGE))


@case
def tensor_with_overflowing_dims(folder: Path) -> Path:
    return _with_tensor(folder, lambda t: t.dims.extend([2**33, 2**33]))


@case
def tensor_with_negative_dim(folder: Path) -> Path:
    return _with_tensor(folder, lambda t: t.dims.__setitem__(0, -1))


@case
def tensor_of_unknown_type(folder: Path) -> Path:
    return _with_tensor(folder, lambda t: setattr(t, "data_type", 999))


@case
def tensor_too_short(folder: Path) -> Path:
    return _with_tensor(folder, lambda t: setattr(t, "raw_data", t.raw_data[:5]))


@case
def tensor_without_name(folder: Path) -> Path:
    return _with_tensor(folder, lambda t: t.ClearField("name"))


@case
def sparse_tensor_of_terabytes(folder: Path) -> Path:
    model = make_model([helper.make_node("Identity", ["s"], ["y"])])
    sparse = model.graph.sparse_initializer.add()
    sparse.values.CopyFrom(numpy_helper.from_array(np.ones(1, np.float32), "s"))
    sparse.indices.CopyFrom(numpy_helper.from_array(_int64(0), "i"))
    sparse.dims.extend([2**40])
    return _save(folder, model)


# --- graphs


@case
def cycle(folder: Path) -> Path:
    nodes = [helper.make_node("Add", ["x", "b"], ["a"]), helper.make_node("Relu", ["a"], ["b"])]
    return _save(folder, make_model([*nodes, helper.make_node("Relu", ["b"], ["y"])]))


@case
def cycle_of_functions(folder: Path) -> Path:
    functions = [
        helper.make_function(
            "f",
            name,
            ["p"],
            ["r"],
            [helper.make_node(other, ["p"], ["r"], domain="f")],
            [helper.make_opsetid("f", 1)],
        )
        for name, other in (("A", "B"), ("B", "A"))
    ]
    return _graph(folder, [helper.make_node("A", ["x"], ["y"], domain="f")], functions=functions)


@case
def functions_that_double(folder: Path) -> Path:
    """Each calls the one before it twice: 2^60 nodes once inlined."""
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("f", 1)]
    functions = [
        helper.make_function(
            "f", "F0", ["p"], ["r"], [helper.make_node("Relu", ["p"], ["r"])], opsets
        )
    ]
    for level in range(1, 61):
        inner = f"F{level - 1}"
        nodes = [
            helper.make_node(inner, ["p"], ["m"], domain="f"),
            helper.make_node(inner, ["m"], ["r"], domain="f"),
        ]
        functions.append(helper.make_function("f", f"F{level}", ["p"], ["r"], nodes, opsets))
    return _graph(folder, [helper.make_node("F60", ["x"], ["y"], domain="f")], functions=functions)


@case
def function_with_outer_values(folder: Path) -> Path:
    function = helper.make_function(
        *("f", "F", ["p"], ["r"], [helper.make_node("Add", ["p", "x"], ["r"])]),
        [helper.make_opsetid("", 18)],
    )
    call = helper.make_node("F", ["x"], ["y"], domain="f")
    return _graph(folder, [call], functions=[function])


@case
def duplicated_names(folder: Path) -> Path:
    nodes = [helper.make_node("Relu", ["x"], ["y"]), helper.make_node("Neg", ["x"], ["y"])]
    return _save(folder, make_model(nodes))


@case
def undefined_input(folder: Path) -> Path:
    return _save(folder, make_model([helper.make_node("Relu", ["gone"], ["y"])]))


@case
def no_outputs(folder: Path) -> Path:
    return _save(folder, make_model(outputs=()))


@case
def no_graph(folder: Path) -> Path:
    return _save(folder, onnx.ModelProto(ir_version=10))


@case
def opset_of_the_far_future(folder: Path) -> Path:
    model = make_model()
    model.opset_import[0].version = _HUGE
    return _save(folder, model)


@case
def attribute_twice(folder: Path) -> Path:
    node = helper.make_node("LeakyRelu", ["x"], ["y"], alpha=0.5)
    node.attribute.append(helper.make_attribute("alpha", 0.1))
    return _save(folder, make_model([node]))


@case
def graph_in_an_operator_without(folder: Path) -> Path:
    body = helper.make_graph([helper.make_node("Relu", ["x"], ["r"])], "g", [], [
        helper.make_tensor_value_info("r", FLOAT, None)])  # fmt: skip
    return _save(folder, make_model([helper.make_node("Relu", ["x"], ["y"], extra=body)]))


@case
def two_versions_of_one_domain(folder: Path) -> Path:
    model = make_model()
    model.opset_import.append(helper.make_opsetid("ai.onnx", 1))
    return _save(folder, model)


@case
def opset_negative(folder: Path) -> Path:
    model = make_model()
    model.opset_import[0].version = -5
    return _save(folder, model)


@case
def chain_of_five_thousand(folder: Path) -> Path:
    names = ["x", *(f"v{number}" for number in range(4_999)), "y"]
    nodes = [helper.make_node("Abs", [a], [b]) for a, b in itertools.pairwise(names)]
    return _save(folder, make_model(nodes))


@case
def symbols_that_explode(folder: Path) -> Path:
    """Every Concat doubles a dimension with a symbol in it, every Reshape multiplies them."""
    nodes, value = [], "x"
    for number in range(200):
        nodes += [
            helper.make_node("Concat", [value, value], [f"c{number}"], axis=0),
            helper.make_node("Shape", [f"c{number}"], [f"s{number}"]),
            helper.make_node("Mul", [f"s{number}", f"s{number}"], [f"m{number}"]),
            helper.make_node("Cast", [f"m{number}"], [f"f{number}"], to=FLOAT),
            helper.make_node("Concat", [f"c{number}", f"f{number}"], [f"d{number}"], axis=0),
        ]
        value = f"d{number}"
    return _graph(folder, [*nodes[:60], helper.make_node("Relu", ["d11"], ["y"])])


# --- attributes and types


@case
def attribute_of_another_type(folder: Path) -> Path:
    return _graph(folder, [helper.make_node("Softmax", ["x"], ["y"], axis="one")])


@case
def attribute_with_a_million_integers(folder: Path) -> Path:
    return _graph(folder, [helper.make_node("Foo", ["x"], ["y"], domain="f", a=[1] * 1_000_000)])


@case
def attribute_out_of_range(folder: Path) -> Path:
    return _graph(folder, [helper.make_node("Softmax", ["x"], ["y"], axis=_HUGE)])


@case
def permutation_that_is_none(folder: Path) -> Path:
    return _graph(folder, [helper.make_node("Transpose", ["x"], ["y"], perm=[0, 0, 7])])


@case
def conv_with_zero_strides(folder: Path) -> Path:
    node = helper.make_node("Conv", ["x", "w"], ["y"], strides=[0, 0], kernel_shape=[3, 3])
    weight = np.ones((1, 1, 3, 3), np.float32)
    return _graph(folder, [node], {"w": weight}, shape=("n", 1, 8, 8))


@case
def conv_with_zero_groups(folder: Path) -> Path:
    weight = np.ones((1, 1, 3, 3), np.float32)
    node = helper.make_node("Conv", ["x", "w"], ["y"], group=0)
    return _graph(folder, [node], {"w": weight}, shape=("n", 1, 8, 8))


@case
def pads_of_exabytes(folder: Path) -> Path:
    return _graph(folder, [helper.make_node("Pad", ["x", "p"], ["y"])], {"p": _int64(0, _HUGE)})


@case
def text_in_arithmetic(folder: Path) -> Path:
    node = helper.make_node("Add", ["x", "t"], ["y"])
    return _graph(folder, [node], {"t": np.array(["a"], object)})


@case
def condition_that_is_a_float(folder: Path) -> Path:
    branch = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["r"])],
        "branch",
        [],
        [helper.make_tensor_value_info("r", FLOAT, None)],
    )
    node = helper.make_node("If", ["x"], ["y"], then_branch=branch, else_branch=branch)
    return _graph(folder, [node])


@case
def if_without_branches(folder: Path) -> Path:
    return _graph(folder, [helper.make_node("If", ["x"], ["y"])])


@case
def division_by_zero(folder: Path) -> Path:
    nodes = [
        helper.make_node("Div", ["a", "z"], ["d"]),
        helper.make_node("Mod", ["d", "z"], ["m"]),
        helper.make_node("Cast", ["m"], ["c"], to=FLOAT),
        helper.make_node("Add", ["x", "c"], ["y"]),
    ]
    return _graph(folder, nodes, {"a": _int64(1), "z": _int64(0)})


# --- work without end


@case
def constant_of_exabytes(folder: Path) -> Path:
    nodes = [
        helper.make_node("ConstantOfShape", ["s"], ["c"]),
        helper.make_node("ReduceSum", ["c"], ["r"], keepdims=0),
        helper.make_node("Add", ["x", "r"], ["y"]),
    ]
    return _graph(folder, nodes, {"s": _int64(2**31, 2**31)})


@case
def range_of_exabytes(folder: Path) -> Path:
    nodes = [
        helper.make_node("Range", ["a", "b", "c"], ["r"]),
        helper.make_node("Cast", ["r"], ["f"], to=FLOAT),
        helper.make_node("Add", ["x", "f"], ["y"]),
    ]
    arrays = {"a": np.array(0), "b": np.array(_HUGE), "c": np.array(1)}
    return _graph(folder, nodes, arrays)


@case
def tile_of_exabytes(folder: Path) -> Path:
    nodes = [
        helper.make_node("Tile", ["w", "t"], ["c"]),
        helper.make_node("Add", ["x", "c"], ["y"]),
    ]
    return _graph(folder, nodes, {"w": np.ones(8, np.float32), "t": _int64(2**58)})


@case
def expansions_that_double(folder: Path) -> Path:
    """Constants that double 50 times."""
    nodes = [
        helper.make_node("Concat", [f"c{k}", f"c{k}"], [f"c{k + 1}"], axis=0) for k in range(50)
    ]
    nodes += [
        helper.make_node("ReduceMax", ["c50"], ["r"], keepdims=0),
        helper.make_node("Add", ["x", "r"], ["y"]),
    ]
    return _graph(folder, nodes, {"c0": np.ones(4, np.float32)})


@case
def einsum_of_many_letters(folder: Path) -> Path:
    letters = "abcdefghijklmnopqrstuvwxyz"
    node = helper.make_node("Einsum", ["w", "w"], ["e"], equation=f"{letters},{letters}->")
    array = np.ones((2,) * 26, np.float32)[(slice(0, 1),) * 26]
    return _graph(folder, [node, helper.make_node("Add", ["x", "e"], ["y"])], {"w": array})


def _loop(folder: Path, trips: str, condition: str, arrays: dict[str, NDArray[Any]]) -> Path:
    body = helper.make_graph(
        [
            helper.make_node("Abs", ["v"], ["o"]),
            helper.make_node("Identity", ["c"], ["again"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", INT64, []),
            helper.make_tensor_value_info("c", BOOL, []),
            helper.make_tensor_value_info("v", FLOAT, ["n"]),
        ],
        [
            helper.make_tensor_value_info("again", BOOL, []),
            helper.make_tensor_value_info("o", FLOAT, ["n"]),
        ],
    )
    node = helper.make_node("Loop", [trips, condition, "x"], ["l"], body=body)
    return _graph(folder, [node, helper.make_node("Relu", ["l"], ["y"])], arrays)


@case
def loop_of_ages(folder: Path) -> Path:
    return _loop(folder, "m", "", {"m": np.array(_HUGE)})


@case
def loop_without_end(folder: Path) -> Path:
    return _loop(folder, "", "c0", {"c0": np.array(True)})


@case
def custom_operator_library(folder: Path) -> Path:
    model = make_model([helper.make_node("Run", ["x"], ["y"], domain="evil.so")])
    model.opset_import.append(helper.make_opsetid("evil.so", 1))
    model.metadata_props.add(key="custom_op_library", value="./evil.so")
    return _save(folder, model)
