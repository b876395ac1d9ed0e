"""Evaluating one node on arrays, with onnx's reference operators.

Only deterministic operators that the tests compare with ONNX Runtime are evaluated. The result must
have the dtype that ONNX's type inference gives, and the work must be small: folding is a gift to
the run time, not a second inference engine.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun
from onnx.reference.ops._op_list import load_op

from onnxopt.graph.disagreements import disagreement
from onnxopt.graph.operators import OpKey, attribute_values

Array = NDArray[Any]

_ELEMENTWISE = """
Abs Acos Acosh Add And Asin Asinh Atan Atanh BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor
Cast Ceil Celu Clip Cos Cosh Div Elu Equal Erf Exp Floor Greater GreaterOrEqual HardSigmoid
HardSwish Identity IsInf IsNaN LeakyRelu Less LessOrEqual Log Max Mean Min Mod Mul Neg Not Or PRelu
Pow Reciprocal Relu Round Selu Sigmoid Sign Sin Sinh Softplus Softsign Sqrt Sub Sum Tan Tanh
ThresholdedRelu Where Xor
"""
_SHAPING = """
Compress Concat ConstantOfShape DepthToSpace Expand EyeLike Flatten Gather GatherElements GatherND
NonZero OneHot Pad Range Reshape Shape Size Slice SpaceToDepth Split Squeeze Tile Transpose Trilu
Unsqueeze
"""
_REDUCING = """
ArgMax ArgMin CumSum LogSoftmax ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean
ReduceMin ReduceProd ReduceSum ReduceSumSquare Softmax TopK
"""
_MULTIPLYING = "MatMul Gemm Einsum LayerNormalization"
# The reference walks these element by element in Python.
_SLOW = frozenset(("ScatterND", "ScatterElements", "Resize", "QuantizeLinear"))
# Before these versions the reference computes something else than the specification says.
_SINCE = {"Softmax": 13, "LogSoftmax": 13}
EVALUATED = _SLOW.union(*(t.split() for t in (_ELEMENTWISE, _SHAPING, _REDUCING, _MULTIPLYING)))

_MOST_WORK = 1_000_000_000
_MOST_SLOW_ELEMENTS = 300_000
_KEPT_OPERATORS = 4096

# What the reference operators raise on inputs that they do not take.
_ERRORS = (
    ValueError,
    TypeError,
    IndexError,
    KeyError,
    AttributeError,
    ArithmeticError,
    NotImplementedError,
    RuntimeError,
    MemoryError,
)


class NotEvaluatedError(Exception):
    """The node has no value that can be computed here; the text says why."""


def is_evaluated(node: ir.Node, opset: int) -> bool:
    """True if nodes of this operator are folded at all."""
    op_type = node.op_type
    return not node.domain and op_type in EVALUATED and opset >= _SINCE.get(op_type, 1)


def evaluate(
    node: ir.Node, inputs: Sequence[Array | None], opset: int, dtypes: Sequence[ir.DataType | None]
) -> list[Array]:
    """Runs one node.

    Args:
        node: An operator of the default domain.
        inputs: One array for each input, None where it is omitted.
        opset: Version of the default domain.
        dtypes: What the outputs must have by ONNX's type inference; None accepts any.

    Returns:
        One array for each output.

    Raises:
        NotEvaluatedError: It is not evaluated, not on these inputs, the work is too large, or the
            reference fails.
    """
    if not is_evaluated(node, opset):
        raise NotEvaluatedError(f"{node.op_type} is not evaluated")
    if _work(node, inputs) > _MOST_WORK:
        raise NotEvaluatedError(f"{node.op_type} is too much work")
    try:
        differs = disagreement(node, inputs)
        if differs is not None:
            raise NotEvaluatedError(f"{node.op_type} is not evaluated: {differs}")
        with np.errstate(all="ignore"):
            run: Callable[..., Sequence[Any]] = _operator(node, inputs, opset).run
            results = run(*_trimmed(inputs))
    except _ERRORS as error:
        raise NotEvaluatedError(f"{node.op_type}: {error}") from error
    outputs: list[Array] = []
    for result, dtype in zip(results, dtypes, strict=False):
        if not isinstance(result, np.ndarray):
            raise NotEvaluatedError(f"{node.op_type} gives {type(result).__name__}, not a tensor")
        if dtype is not None and result.dtype != dtype.numpy():
            raise NotEvaluatedError(f"{node.op_type} gives {result.dtype} for {dtype.name}")
        outputs.append(result)
    if len(outputs) < len(node.outputs):
        raise NotEvaluatedError(f"{node.op_type} gives {len(outputs)} outputs")
    return outputs


_OPERATORS: dict[OpKey, OpRun] = {}


def _operator(node: ir.Node, inputs: Sequence[Array | None], opset: int) -> OpRun:
    """An instance of the reference operator; they hold attributes only and are reused."""
    attributes = attribute_values(node)
    given = tuple([array is not None for array in inputs])
    key: OpKey | None = None
    if attributes is not None:
        key = (node.op_type, given, len(node.outputs), opset, attributes)
    operator = None if key is None else _OPERATORS.get(key)
    if operator is not None:
        return operator
    proto = onnx.NodeProto(op_type=node.op_type)
    proto.input.extend("" if array is None else f"i{i}" for i, array in enumerate(inputs))
    proto.output.extend(f"o{i}" for i in range(len(node.outputs)))
    proto.attribute.extend(ir.serde.serialize_attribute(a) for a in node.attributes.values())
    parameters = {
        "opsets": {"": opset},
        "log": _discard,
        "new_ops": None,
        "evaluator_cls": ReferenceEvaluator,
        "existing_functions": {},
    }
    made = load_op("", node.op_type, opset, node=proto, evaluator_cls=ReferenceEvaluator)(
        proto, parameters
    )
    assert isinstance(made, OpRun)
    if key is not None:
        if len(_OPERATORS) >= _KEPT_OPERATORS:
            _OPERATORS.clear()
        _OPERATORS[key] = made
    return made


def _discard(*_: object) -> None:
    """The reference's log."""


def _trimmed(inputs: Sequence[Array | None]) -> Sequence[Array | None]:
    """Without omitted inputs at the end, for which the reference has defaults."""
    count = len(inputs)
    while count and inputs[count - 1] is None:
        count -= 1
    return inputs[:count]


def _work(node: ir.Node, inputs: Sequence[Array | None]) -> float:
    """A rough number of elementary steps."""
    arrays = [array for array in inputs if array is not None]
    elements = sum(array.size for array in arrays)
    op_type = node.op_type
    if op_type in _SLOW and elements > _MOST_SLOW_ELEMENTS:
        return math.inf
    if op_type in ("MatMul", "Gemm") and len(arrays) >= 2 and arrays[0].ndim:
        columns = arrays[1].shape[-1] if arrays[1].ndim else 1
        return float(arrays[0].size) * columns
    if op_type == "Einsum":
        return math.prod((float(array.size) for array in arrays), start=1.0)
    return float(elements)
