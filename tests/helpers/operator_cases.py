"""Inputs for every operator that folding evaluates: what `test_evaluation` runs twice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

Array = NDArray[Any]
Input = Array | np.generic | None
Case = tuple[str, Sequence[Input], Mapping[str, Any], Sequence[int]]

RNG = np.random.default_rng(0)
ALL, OLD, NEW = (7, 11, 13, 17, 20), (7, 11), (13, 17, 20)


def floats(*shape: int, dtype: Any = np.float32) -> Array:
    """Normal floats."""
    return RNG.standard_normal(shape).astype(dtype)


def positive(*shape: int) -> Array:
    """Floats between 0.1 and 1.1."""
    return np.asarray(RNG.random(shape) + 0.1, np.float32)


def ints(*items: Any, dtype: Any = np.int64) -> Array:
    """A 1-d or nested integer array."""
    return np.array(items, dtype)


A, B = floats(2, 3, 4), floats(3, 1)
BITS = RNG.random((2, 3)) < 0.5
SPECIAL = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1.5, -2.5, 0.5], np.float32)
I8 = RNG.integers(-100, 100, (4, 5)).astype(np.int8)
I64 = RNG.integers(-20, 20, (4, 5))
NONZERO = np.where(I64 == 0, 3, I64)

UNARY = """
Abs Ceil Cos Elu Erf Exp Floor Identity LeakyRelu Neg Relu Round Selu Sigmoid Sign Sin Softplus
Softsign Tan Tanh Atan Asinh Sinh Cosh ThresholdedRelu HardSigmoid Celu
"""
REDUCTIONS = """
ReduceL1 ReduceL2 ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare
ReduceLogSum ReduceLogSumExp
"""
SINCE = {"Erf": 9, "Round": 11, "Sign": 9, "Asinh": 9, "Sinh": 9, "Cosh": 9, "Celu": 12}
SINCE |= {"ThresholdedRelu": 10, "Elu": 7, "Atan": 7}


def since(op_type: str) -> list[int]:
    """The opsets in which the operator exists."""
    return [opset for opset in ALL if opset >= SINCE.get(op_type, 1)]


def operator_cases() -> list[Case]:
    """(op type, inputs, attributes, opsets) of all cases."""
    cases: list[Case] = [(op, [A], {}, since(op)) for op in UNARY.split()]
    cases += [(op, [SPECIAL], {}, since(op)) for op in ("Floor", "Ceil", "Abs", "Sign", "Relu")]
    cases += [(op, [positive(3, 4)], {}, ALL) for op in ("Sqrt", "Log", "Reciprocal")]
    cases += [(op, [positive(4) * 0.5], {}, (9, 17)) for op in ("Acos", "Asin", "Atanh")]
    cases += [("Acosh", [positive(4) + 1], {}, (9, 17))]
    cases += [(op, [A, B], {}, ALL) for op in ("Add", "Sub", "Mul", "Div")]
    cases += [(op, [I64, NONZERO], {}, ALL) for op in ("Add", "Sub", "Mul", "Div")]
    cases += [("Div", [I64.astype(np.int32), NONZERO.astype(np.int32)], {}, ALL)]
    cases += [(op, [A, floats(3, 4)], {}, (8, 11, 13)) for op in ("Max", "Min", "Sum", "Mean")]
    cases += [(op, [I64, NONZERO], {}, (12, 17)) for op in ("Max", "Min")]
    cases += [("Pow", [positive(3, 4), floats(4)], {}, ALL)]
    cases += [("Pow", [positive(3), np.array(2, np.int64)], {}, (12, 17))]
    cases += [("Mod", [I64, NONZERO], {}, (10, 13, 17))]
    cases += [("Mod", [A, B], {"fmod": 1}, (10, 13, 17))]
    cases += [("PRelu", [A, floats(4)], {}, (7, 9, 16))]
    cases += [(op, [A, B], {}, (9, 11, 13)) for op in ("Greater", "Less")]
    cases += [(op, [I64, NONZERO], {}, (11, 13, 17)) for op in ("Equal", "Greater", "Less")]
    cases += [(op, [A, B], {}, (12, 16)) for op in ("GreaterOrEqual", "LessOrEqual")]
    cases += [(op, [BITS, ~BITS], {}, ALL) for op in ("And", "Or", "Xor")]
    cases += [("Not", [BITS], {}, ALL), ("Where", [BITS, floats(2, 3), floats(3)], {}, (9, 16))]
    cases += [("IsNaN", [SPECIAL], {}, (9, 13)), ("IsInf", [SPECIAL], {}, (10, 20))]
    cases += [("Clip", [A], {"min": -0.5, "max": 0.5}, (7,))]
    cases += [("Clip", [A, np.float32(-0.5), np.float32(0.5)], {}, (11, 13))]
    cases += [("Clip", [A, None, np.float32(0.5)], {}, (11, 13))]
    cases += [("Clip", [I64, None, np.array(3)], {}, (12, 13))]
    cases += [("HardSwish", [A], {}, (14,))]
    u8 = RNG.integers(0, 8, (3, 4)).astype(np.uint8)
    cases += [("BitShift", [u8, u8 % 3], {"direction": d}, (11,)) for d in ("LEFT", "RIGHT")]
    cases += [(op, [u8, u8 + 5], {}, (18,)) for op in ("BitwiseAnd", "BitwiseOr", "BitwiseXor")]
    cases += [("BitwiseNot", [u8], {}, (18,))]
    return cases + _cast_cases() + _shape_cases() + _reduce_cases() + _other_cases()


def _cast_cases() -> list[Case]:
    wild = np.array([300.7, -3.9, 2.5, 0.0, 100.0], np.float32)
    small = np.array([3.7, -3.9, 2.5, 0.0, 100.0], np.float32)
    halves = np.array([65504.0, 70000.0, 1e-8, 1.0009765, -2.5], np.float32)
    cast = {
        d: int(onnx.TensorProto.DataType.Value(d)) for d in list(onnx.TensorProto.DataType.keys())
    }
    cases: list[Case] = [
        ("Cast", [small], {"to": cast[d]}, ALL)
        for d in ("INT64", "INT32", "INT8", "DOUBLE", "BOOL")
    ]
    cases += [("Cast", [halves], {"to": cast["FLOAT16"]}, ALL)]
    cases += [("Cast", [halves], {"to": cast["BFLOAT16"]}, (13, 19))]
    cases += [("Cast", [floats(5, dtype=np.float16)], {"to": cast["FLOAT"]}, ALL)]
    cases += [("Cast", [floats(5, dtype=ml_dtypes.bfloat16)], {"to": cast["FLOAT"]}, (13, 19))]
    cases += [("Cast", [I64 * 1000], {"to": cast[d]}, ALL) for d in ("INT32", "INT8", "UINT8")]
    cases += [("Cast", [I64], {"to": cast[d]}, ALL) for d in ("FLOAT", "BOOL", "FLOAT16")]
    cases += [("Cast", [BITS], {"to": cast[d]}, ALL) for d in ("FLOAT", "INT64", "INT32")]
    cases += [("Cast", [np.abs(wild)], {"to": cast["INT32"]}, ALL)]
    return cases


def _shape_cases() -> list[Case]:
    data = floats(2, 3, 4)
    where = ints(0, 2)
    cases: list[Case] = [
        ("Concat", [data, data], {"axis": -1}, (11, 13)),
        ("Concat", [data, data], {"axis": 1}, ALL),
        ("ConstantOfShape", [ints(2, 3)], {}, (9, 20)),
        ("ConstantOfShape", [ints(2, 3)], {"value": ir.tensor(np.array([7], np.int64))}, (9, 20)),
        ("ConstantOfShape", [ints()], {"value": ir.tensor(np.array([7], np.int64))}, (9, 20)),
        ("DepthToSpace", [floats(1, 8, 2, 3)], {"blocksize": 2}, ALL),
        ("DepthToSpace", [floats(1, 8, 2, 3)], {"blocksize": 2, "mode": "CRD"}, (11, 13)),
        ("SpaceToDepth", [floats(1, 2, 4, 6)], {"blocksize": 2}, ALL),
        ("Expand", [floats(3, 1), ints(2, 1, 4)], {}, (8, 13)),
        ("Expand", [floats(3, 4), ints(1, 1, 1)], {}, (8, 13)),
        ("EyeLike", [floats(3, 4)], {"k": 1}, (9,)),
        ("EyeLike", [floats(3, 4)], {"dtype": onnx.TensorProto.INT64}, (9,)),
        ("Flatten", [data], {"axis": 2}, ALL),
        ("Flatten", [data], {"axis": -1}, (11, 13)),
        ("Gather", [data, ints(-1, 0)], {"axis": 1}, (11, 13)),
        ("Gather", [data, np.array(1)], {"axis": 2}, ALL),
        ("GatherElements", [data, RNG.integers(-3, 3, (2, 3, 4))], {"axis": 1}, (11, 13)),
        ("GatherND", [data, ints([0, 1], [1, -1])], {}, (11, 13)),
        ("GatherND", [data, ints([0], [2])], {"batch_dims": 1}, (12, 13)),
        ("NonZero", [np.array([[1, 0], [0, 3]])], {}, (9, 13)),
        ("Compress", [data, np.array([True, False, True])], {"axis": 1}, (9, 11)),
        ("OneHot", [ints(0, 2, -1), np.array(3), np.array([0, 1], np.float32)], {}, (11,)),
        ("OneHot", [ints(0, 2), np.array(3), np.array([5, 1])], {"axis": 0}, (9, 11)),
        ("Pad", [data], {"pads": [0, 1, 2, 0, 0, 1], "value": 2.0}, (7,)),
        ("Pad", [data], {"pads": [0, 1, 2, 0, 0, 1], "mode": "reflect"}, (7,)),
        ("Pad", [data, ints(0, 1, 2, 0, 0, 1), np.float32(3)], {}, (11, 13, 18)),
        ("Pad", [data, ints(0, 1, 2, 0, 0, 1)], {"mode": "edge"}, (11, 13)),
        ("Pad", [data, ints(0, 1, 2, 0, 0, 1)], {"mode": "reflect"}, (11, 13)),
        ("Pad", [data, ints(1, 2), np.float32(3), ints(2)], {}, (18,)),
        ("Range", [np.array(1), np.array(10), np.array(3)], {}, (11,)),
        ("Range", [np.array(5), np.array(-5), np.array(-2)], {}, (11,)),
        ("Range", [np.float32(0), np.float32(1), np.float32(0.3)], {}, (11,)),
        ("Range", [np.array(5), np.array(5), np.array(1)], {}, (11,)),
        ("Reshape", [data, ints(0, -1)], {}, (7, 13)),
        ("Reshape", [floats(0, 3), ints(0, 4)], {"allowzero": 1}, (14,)),
        ("Shape", [data], {}, ALL),
        ("Shape", [data], {"start": 1, "end": -1}, (15,)),
        ("Size", [data], {}, ALL),
        ("Slice", [data], {"starts": [0, -2], "ends": [1, 1000], "axes": [0, 2]}, (7, 9)),
        ("Slice", [data, ints(0, -2), ints(1, 1000), ints(0, 2)], {}, (10, 11, 13)),
        ("Slice", [data, ints(-1), ints(-(2**63)), ints(-1), ints(-2)], {}, (11, 13)),
        ("Slice", [data, ints(1), ints(2)], {}, (10, 13)),
        ("Split", [data], {"axis": 1, "split": [1, 2]}, (7, 11)),
        ("Split", [data, ints(1, 2)], {"axis": 1}, (13, 18)),
        ("Split", [data], {"axis": 2}, (7, 11, 13)),
        ("Split", [floats(5, 2)], {"num_outputs": 2}, (18,)),
        ("Squeeze", [floats(1, 3, 1)], {}, ALL),
        ("Squeeze", [floats(1, 3, 1)], {"axes": [0]}, OLD),
        ("Squeeze", [floats(1, 3, 1), ints(-1)], {}, NEW),
        ("Unsqueeze", [floats(3, 2)], {"axes": [0, 3]}, OLD),
        ("Unsqueeze", [floats(3, 2), ints(3, 0)], {}, NEW),
        ("Unsqueeze", [np.float32(3), ints(-1)], {}, NEW),
        ("Tile", [data, ints(1, 2, 3)], {}, ALL),
        ("Transpose", [data], {}, ALL),
        ("Transpose", [data], {"perm": [1, 2, 0]}, ALL),
        ("Trilu", [floats(2, 3, 4)], {"upper": 0}, (14,)),
        ("Trilu", [floats(4, 3), np.array(-1)], {"upper": 1}, (14,)),
        ("Trilu", [np.arange(12).reshape(3, 4), np.array(1)], {"upper": 0}, (14,)),
        ("ScatterND", [data, ints([0], [1]), floats(2, 3, 4)], {}, (11, 13, 16)),
        ("ScatterND", [np.arange(6), ints([1], [-1]), ints(50, 60)], {}, (11, 13, 16)),
        (
            "ScatterElements",
            [data, RNG.permutation(3).reshape(1, 3, 1), floats(1, 3, 1)],
            {"axis": 1},
            (11, 13, 16),
        ),
        ("Gather", [floats(3, 4, dtype=np.float16), where], {}, ALL),
    ]
    return cases


def _reduce_cases() -> list[Case]:
    cases: list[Case] = []
    data = positive(2, 3, 4)
    for op in REDUCTIONS.split():
        first = 13 if op == "ReduceSum" else 18
        old = [opset for opset in (7, 11, 13, 17) if opset < first]
        new = [opset for opset in (13, 18, 20) if opset >= first]
        cases += [(op, [data], {"axes": [1], "keepdims": 0}, old), (op, [data], {}, old)]
        cases += [(op, [data], {"axes": [0, -1]}, [o for o in old if o >= 11])]
        cases += [(op, [data, ints(1)], {"keepdims": 0}, new), (op, [data], {}, new)]
        cases += [(op, [data, ints(0, -1)], {}, new)]
        cases += [(op, [data], {"noop_with_empty_axes": 1}, new)]
        cases += [(op, [I64], {"axes": [1]}, old)] if not op.startswith("ReduceLogSum") else []
    for op in ("ArgMax", "ArgMin"):
        cases += [(op, [A], {"axis": 1, "keepdims": 0}, ALL), (op, [A], {"axis": -1}, (11, 13))]
        cases += [(op, [np.zeros((2, 3), np.float32)], {"select_last_index": 1}, (12, 13))]
    cases += [(op, [A], {"axis": 1}, (13, 17)) for op in ("Softmax", "LogSoftmax")]
    cases += [
        ("CumSum", [A, np.array(1)], flags, (11, 14))
        for flags in ({}, {"exclusive": 1}, {"reverse": 1}, {"exclusive": 1, "reverse": 1})
    ]
    cases += [("TopK", [A, ints(2)], {"axis": 1, "largest": large}, (11,)) for large in (0, 1)]
    cases += [("TopK", [A, ints(2)], {}, (10, 11)), ("TopK", [A], {"k": 2}, (7,))]
    return cases


def _other_cases() -> list[Case]:
    return [
        ("MatMul", [A, floats(4, 5)], {}, ALL),
        ("MatMul", [floats(4), floats(4)], {}, ALL),
        ("Gemm", [floats(3, 4), floats(5, 4), floats(5)], {"transB": 1, "alpha": 0.5}, ALL),
        ("Gemm", [floats(4, 3), floats(4, 5)], {"transA": 1}, (11, 13)),
        ("Einsum", [A, floats(4, 5)], {"equation": "bij,jk->bik"}, (12,)),
        ("Einsum", [floats(3), floats(4)], {"equation": "i,j->ij"}, (12,)),
        ("LayerNormalization", [A, floats(4), floats(4)], {"epsilon": 1e-3}, (17,)),
        ("QuantizeLinear", [A, np.float32(0.02), np.uint8(128)], {}, (10, 13, 19)),
        ("QuantizeLinear", [A, positive(3) * 0.05, np.zeros(3, np.int8)], {"axis": 1}, (13, 19)),
        (
            "Resize",
            [floats(1, 2, 3, 4), None, np.array([1, 1, 2, 2], np.float32)],
            {"mode": "nearest"},
            (13, 18),
        ),
        (
            "Resize",
            [floats(1, 2, 4, 4), None, None, ints(1, 2, 8, 12)],
            {"mode": "linear", "coordinate_transformation_mode": "align_corners"},
            (13, 18),
        ),
        (
            "Resize",
            [floats(1, 1, 4, 4), None, None, ints(1, 1, 8, 12)],
            {"mode": "cubic", "coordinate_transformation_mode": "half_pixel"},
            (13, 18),
        ),
    ]
