"""Types of a node's outputs by onnx's own inference of the operator's schema, memoized.

Exports repeat the same blocks, so most nodes find the types of an equal node: same operator and
attributes, equal input types, equal values of the small inputs that decide the shape.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx import numpy_helper
from onnx.checker import ValidationError
from onnx.shape_inference import InferenceError, infer_node_outputs

from onnxopt.graph.facts import Fact, from_type_proto, type_proto
from onnxopt.graph.operators import attribute_values
from onnxopt.graph.symbolic import Dim

# Inputs whose values decide the shape of the outputs, by operator.
_REDUCTIONS = """
ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum
ReduceSumSquare
"""
VALUE_INPUTS: Mapping[str, tuple[int, ...]] = {
    **dict.fromkeys(_REDUCTIONS.split(), (1,)),
    "AffineGrid": (1,),
    "BlackmanWindow": (0,),
    "CenterCropPad": (1,),
    "Col2Im": (1, 2),
    "ConstantOfShape": (0,),
    "DFT": (1, 2),
    "Expand": (1,),
    "HammingWindow": (0,),
    "HannWindow": (0,),
    "MaxUnpool": (2,),
    "OneHot": (1,),
    "Pad": (1, 3),
    "Range": (0, 1, 2),
    "Reshape": (1,),
    "Resize": (1, 2, 3),
    "STFT": (1, 3),
    "Slice": (1, 2, 3, 4),
    "Split": (1,),
    "SplitToSequence": (1,),
    "Squeeze": (1,),
    "Tile": (1, 2),
    "TopK": (1,),
    "Unsqueeze": (1,),
    "Upsample": (1,),
}
# The sizes depend on values that no inference sees.
_DATA_DEPENDENT = frozenset(
    ("Compress", "ImageDecoder", "NonMaxSuppression", "NonZero", "StringSplit", "Unique")
)
# onnx's inference gives two-sided frequencies where the default is one-sided.
_WRONG_SIZES = frozenset(("STFT",))


class Inferred(NamedTuple):
    """What onnx says of the outputs of a node.

    Attributes:
        raw: Element type, dimensions (None where onnx has no name for one) and serialized other
            type of each output.
        facts: The same if all ranks are known and every dimension has a name, else None.
        key: Equal for nodes whose unnamed dimensions are surely equal, or None.
    """

    raw: list[tuple[int, tuple[Dim | None, ...] | None, bytes | None]]
    facts: list[Fact] | None
    key: Hashable


_MEMO: dict[Hashable, Inferred] = {}
_MEMO_SIZE = 20_000


class SchemaTypes:
    """onnx's inference for the nodes of one model."""

    def __init__(self, opset_imports: Mapping[str, int]) -> None:
        self._opset_imports = dict(opset_imports)
        self._schemas: dict[tuple[str, str, int], onnx.defs.OpSchema | None] = {}

    def schema(self, node: ir.Node) -> onnx.defs.OpSchema | None:
        """The operator's schema at the model's version, or None if onnx does not know it."""
        version = node.version or self._opset_imports.get(node.domain, 1)
        key = (node.domain, node.op_type, version)
        if key not in self._schemas:
            try:
                self._schemas[key] = onnx.defs.get_schema(node.op_type, version, node.domain)
            except onnx.defs.SchemaError:
                self._schemas[key] = None
        return self._schemas[key]

    def infer(
        self,
        node: ir.Node,
        schema: onnx.defs.OpSchema,
        inputs: Sequence[Fact | None],
        constants: Mapping[int, NDArray[Any]],
    ) -> Inferred:
        """Types of the outputs.

        Args:
            node: A node without subgraphs.
            schema: Its schema.
            inputs: One fact for each input, None where it is omitted.
            constants: Known values of the inputs that `VALUE_INPUTS` names.
        """
        attributes = attribute_values(node)
        if attributes is None:
            return self._infer(node, schema, inputs, constants, None)
        key = (
            node.domain,
            node.op_type,
            schema.since_version,
            attributes,
            tuple(inputs),
            tuple([(i, a.dtype.char, a.shape, a.tobytes()) for i, a in constants.items()]),
            tuple([bool(value.name) for value in node.outputs]),
        )
        inferred = _MEMO.get(key)
        if inferred is None:
            if len(_MEMO) >= _MEMO_SIZE:
                _MEMO.clear()
            inferred = _MEMO[key] = self._infer(node, schema, inputs, constants, key)
        return inferred

    def _infer(
        self,
        node: ir.Node,
        schema: onnx.defs.OpSchema,
        inputs: Sequence[Fact | None],
        constants: Mapping[int, NDArray[Any]],
        key: Hashable,
    ) -> Inferred:
        proto = onnx.NodeProto(op_type=node.op_type, domain=node.domain)
        proto.input.extend("" if fact is None else f"i{i}" for i, fact in enumerate(inputs))
        proto.output.extend(f"o{i}" if v.name else "" for i, v in enumerate(node.outputs))
        proto.attribute.extend(ir.serde.serialize_attribute(a) for a in node.attributes.values())
        data = {
            f"i{i}": numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape))
            for i, array in constants.items()
        }
        imports = [onnx.helper.make_opsetid(d, v) for d, v in self._opset_imports.items()]
        outputs: dict[str, onnx.TypeProto] = {}
        # A shape that contradicts the operator must not cost the element type as well.
        for facts in (inputs, [f and Fact(f.dtype, None, f.other) for f in inputs]):
            if any(fact is not None and not fact.dtype and fact.other is None for fact in facts):
                break  # onnx cannot be told of a tensor whose element type nobody knows
            types = {f"i{i}": type_proto(f) for i, f in enumerate(facts) if f is not None}
            try:
                outputs = infer_node_outputs(schema, proto, types, data, opset_imports=imports)
                break
            except InferenceError:
                continue
            except ValidationError:
                break  # attributes or arguments that the operator does not have
        raw = [
            from_type_proto(outputs[f"o{i}"])
            if f"o{i}" in outputs
            else (_shared_dtype(schema, i, inputs), None, None)
            for i in range(len(node.outputs))
        ]
        if node.op_type in _WRONG_SIZES or (
            # onnx takes any integer for the size, even that of a part that may be empty.
            node.op_type == "Concat" and any(f and f.static_dims is None for f in inputs)
        ):
            raw = [(dtype, dims and (None,) * len(dims), other) for dtype, dims, other in raw]
        if all(
            other is not None or (dims is not None and None not in dims) for _, dims, other in raw
        ):
            complete: list[Fact] = []
            for dtype, dims, other in raw:
                named = None if dims is None else tuple([d for d in dims if d is not None])
                complete.append(Fact(dtype, named, other))
            return Inferred(raw, complete, None)
        repeatable = key is not None and _sizes_follow_from(node, inputs, constants)
        return Inferred(raw, None, key if repeatable else None)


def _shared_dtype(schema: onnx.defs.OpSchema, output: int, inputs: Sequence[Fact | None]) -> int:
    """The element type of the input that the schema ties to an output; 0 if there is none.

    What is left to know of a node that onnx finds invalid but runtimes run, as Range over tensors
    of one element.
    """
    formal = schema.outputs[min(output, len(schema.outputs) - 1)].type_str
    for parameter, fact in zip(schema.inputs, inputs, strict=False):
        if parameter.type_str == formal and fact is not None and "(" not in formal:
            return fact.dtype
    return 0


def _sizes_follow_from(
    node: ir.Node, inputs: Sequence[Fact | None], constants: Mapping[int, NDArray[Any]]
) -> bool:
    """True if equal keys mean equal output sizes, even those that inference cannot name."""
    if node.domain or node.op_type in _DATA_DEPENDENT:
        return False
    if any(fact is not None and fact.dims is None for fact in inputs):
        return False
    return all(
        index in constants or index >= len(inputs) or inputs[index] is None
        for index in VALUE_INPUTS.get(node.op_type, ())
    )
