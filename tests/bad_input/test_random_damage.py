"""Whatever happens to a file, the answer is a model or one clear line: never another exception."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path

from helpers.broken_models import external_model, make_model, nested_model
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from onnxopt.core.errors import OnnxOptError
from onnxopt.graph.loading import load_model
from onnxopt.graph.saving import save_model

FUNCTION = helper.make_function(
    "f", "F", ["a"], ["b"], [helper.make_node("Relu", ["a"], ["b"])], [helper.make_opsetid("", 18)]
)
MODELS = [
    make_model().SerializeToString(),
    nested_model(3).SerializeToString(),
    make_model(
        [helper.make_node("F", ["x"], ["y"], domain="f")], functions=[FUNCTION]
    ).SerializeToString(),
]
with tempfile.TemporaryDirectory() as _folder:
    MODELS.append(external_model(Path(_folder)).read_bytes())

EDITS = st.lists(
    st.tuples(
        st.floats(0, 1), st.sampled_from(["flip", "set", "delete", "double"]), st.integers(0, 255)
    ),
    min_size=1,
    max_size=4,
)


@settings(max_examples=300, deadline=2000)
@given(which=st.integers(0, len(MODELS) - 1), edits=EDITS, front=st.booleans())
def test_damaged_model_loads_and_saves_or_is_refused(which, edits, front):
    data = bytearray(MODELS[which])
    for place, kind, value in edits:
        # Half of the edits near the beginning, where the structure is rather than the weights.
        index = int(place * (min(len(data), 400) - 1 if front else len(data) - 1))
        if kind == "flip":
            data[index] ^= 1 << value % 8
        elif kind == "set":
            data[index] = value
        elif kind == "delete":
            del data[index : index + 1 + value % 8]
        else:
            data[index:index] = data[index : index + value]
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(OnnxOptError):
        path = Path(folder) / "m.onnx"
        path.write_bytes(data)
        model = load_model(path)
        save_model(model, Path(folder) / "out.onnx")
        load_model(Path(folder) / "out.onnx")


@settings(max_examples=150, deadline=2000)
@given(data=st.binary(max_size=300))
def test_random_bytes_load_or_are_refused(data):
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(OnnxOptError):
        path = Path(folder) / "m.onnx"
        path.write_bytes(data)
        load_model(path)
