"""Partly known integer tensors: what each operator keeps of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers.rewriting import parse_model

from onnxopt.graph.inference import infer_model


def elements(line: str, **constants: Any) -> list[Any] | None:
    """Elements of `y` where s = [N, S, 6] and u is an unknown tensor of two integers."""
    model = parse_model(
        f"g (float[N,S,6] x, int64[2] u) => (y) {{ s = Shape(x) {line} }}",
        {name: np.array(value) for name, value in constants.items()},
    )
    found = infer_model(model).elements(model.graph.outputs[0])
    return None if found is None else list(found)


@pytest.mark.parametrize(
    ("line", "constants", "expected"),
    [
        ("y = Gather(s, i)", {"i": [2, 0]}, [6, "N"]),
        ("y = Slice(s, i, j)", {"i": [1], "j": [3]}, ["S", 6]),
        ("y = Concat<axis=0>(s, u)", {}, ["N", "S", 6, None, None]),
        ("y = Reshape(s, i)", {"i": [3, 1]}, ["N", "S", 6]),
        ("t = Unsqueeze(s, i) y = Tile(t, j)", {"i": [0], "j": [2, 1]}, ["N", "S", 6] * 2),
        ("a, y = Split<axis=0>(s, i)", {"i": [1, 2]}, ["S", 6]),
        ("y = ScatterND(s, i, j)", {"i": [[1]], "j": [9]}, ["N", 9, 6]),
        ("y = ScatterElements(s, i, u)", {"i": [0, 2]}, [None, "S", None]),
        ("y = ScatterElements<reduction=\"add\">(s, i, j)", {"i": [0], "j": [1]}, None),
        ("y = Mul(s, i)", {"i": [0, 2, 3]}, [0, "2*S", 18]),
        ("y = Div(s, i)", {"i": 2}, ["floor(N/2)", "floor(S/2)", 3]),
        ("y = Sub(i, s)", {"i": 7}, ["7 - N", "7 - S", 1]),
        ("y = Neg(s)", {}, ["-N", "-S", -6]),
        ("y = Mod(s, i)", {"i": 4}, ["Mod(N, 4)", "Mod(S, 4)", 2]),
        ("y = Max(s, i)", {"i": 0}, ["N", "S", 6]),
        ("y = Min(s, i)", {"i": -1}, [-1, -1, -1]),
        ("y = Equal(s, i)", {"i": -1}, [False, False, False]),
        ("y = Equal(s, i)", {"i": 6}, [None, None, True]),
        ("y = Less(s, i)", {"i": 0}, [False, False, False]),
        ("e = Equal(s, i) y = Not(e)", {"i": 6}, [None, None, False]),
        ("e = Equal(s, i) y = Where(e, j, s)", {"i": -1, "j": 1}, ["N", "S", 6]),
        ("e = Equal(u, i) y = Where(e, j, k)", {"i": 1, "j": [3, 4], "k": [3, 5]}, [3, None]),
        ("y = ReduceProd<keepdims=0>(s)", {}, ["6*N*S"]),
        ("y = ReduceSum<keepdims=1>(s, i)", {"i": [0]}, ["N + S + 6"]),
        ("y = ReduceMax(u)", {}, [None]),
        ("y = Cast<to=6>(s)", {}, ["N", "S", 6]),
        ("y = Cast<to=9>(s)", {}, [None, None, True]),
        ("y = Cast<to=3>(s)", {}, None),
        ("y = Size(x)", {}, ["6*N*S"]),
        ("y = Add(u, i)", {"i": 1}, [None, None]),
        ("y = Mul(s, i)", {"i": 2**62}, ["4611686018427387904*N", "4611686018427387904*S", None]),
    ],
)  # fmt: skip
def test_elements(line: str, constants: dict[str, Any], expected: list[Any] | None) -> None:
    assert elements(line, **constants) == expected


def test_elements_are_constants_when_all_are_known() -> None:
    model = parse_model(
        "g (float[N,S,6] x) => (y) { s = Shape(x) y = Gather(s, i) }", {"i": np.array([2])}
    )
    inference = infer_model(model)
    (output,) = model.graph.outputs
    assert output not in inference.partial
    array = inference.constants.array(output)
    assert array is not None
    assert array.dtype == np.int64
    assert array.tolist() == [6]


def test_large_tensor_is_not_carried() -> None:
    assert elements("y = Tile(s, i)", i=[1000]) is None
