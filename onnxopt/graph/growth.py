"""How much larger folding may make a file: new constants minus the initializers they replace.

Equal constants count once: the blocks of a network often build the same mask, and
`DeduplicateInitializers` stores it once.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Set as AbstractSet

import onnx_ir as ir

from onnxopt.core.walking import all_graphs
from onnxopt.graph.constants import Array, Constants
from onnxopt.graph.facts import Fact

# Shapes and axes, which folding is for; less than the node that they replace.
_FREE_BYTES = 64
_SPENT = "onnxopt.folding.growth"
# A longer chain is not searched for initializers that it makes obsolete. There are many small
# results, often at the end of one long chain: a long search for each would be quadratic.
_LONGEST_CHAIN = 4096
_SMALL_BYTES = 1024
_LONGEST_SMALL_CHAIN = 16


class Growth:
    """The account of one folding run."""

    def __init__(
        self,
        model: ir.Model,
        constants: Constants,
        folded: AbstractSet[ir.Node],
        max_growth: int,
    ) -> None:
        weights = sum(
            value.const_value.nbytes
            for graph in all_graphs(model)
            for value in graph.initializers.values()
            if value.const_value is not None and value.const_value.dtype != ir.DataType.STRING
        )
        self._constants = constants
        self._folded = folded
        self._max_growth = max_growth
        self._model = model
        # A second run must not spend the same allowance again.
        self._left = max(4 * max_growth, weights // 20) - model.meta.get(_SPENT, 0)
        self._claimed: set[ir.Value] = set()
        self._stored: set[tuple[str, tuple[int, ...], bytes]] = set()

    def admitted(self, node: ir.Node, value: ir.Value, fact: Fact) -> Array | str:
        """The array of an output of `node`, or why it is not stored."""
        dims = fact.static_dims
        if dims is None or not fact.dtype:
            return "the size of the result is not known"
        size = math.ceil(math.prod(dims) * ir.DataType(fact.dtype).itemsize)
        growth, freed = size, list[ir.Value]()
        if size > _FREE_BYTES:
            longest = _LONGEST_CHAIN if size > _SMALL_BYTES else _LONGEST_SMALL_CHAIN
            freed = self._replaced(node, longest)
            growth -= sum(_bytes(item) for item in freed)
        if size > _FREE_BYTES and growth > self._max_growth:
            return f"{node.op_type} would make the file {growth} bytes larger"
        array = self._constants.array(value)
        if array is None:
            return self._constants.failures.get(node, "it cannot be computed")
        if size > _FREE_BYTES and growth > 0:
            key = (array.dtype.str, array.shape, hashlib.sha256(array.tobytes()).digest())
            if key in self._stored:
                return array
            if growth > self._left:
                return f"{node.op_type} would make the file {growth} bytes larger"
            self._stored.add(key)
            self._left -= growth
            self._model.meta[_SPENT] = self._model.meta.get(_SPENT, 0) + growth
        self._claimed.update(freed)
        return array

    def _replaced(self, node: ir.Node, longest: int) -> list[ir.Value]:
        """Stored constants that nobody needs once `node` is folded, if few nodes lead to them."""
        chain = {node}
        stored: dict[ir.Value, None] = {}
        pending = [node]
        while pending:
            for value in pending.pop().inputs:
                if value is None or value in stored:
                    continue
                if self._constants.tensor(value) is not None:
                    stored[value] = None
                    continue
                producer = value.producer()
                if producer is not None and producer not in chain and value in self._constants:
                    chain.add(producer)
                    pending.append(producer)
            if len(chain) > longest:
                return []
        return [
            value
            for value in stored
            if value not in self._claimed
            and not value.is_graph_output()
            and all(use.node in chain or use.node in self._folded for use in value.uses())
        ]


def _bytes(value: ir.Value) -> int:
    tensor = value.const_value
    if tensor is None:
        producer = value.producer()
        attribute = None if producer is None else producer.attributes.get("value")
        tensor = None if attribute is None else attribute.value
    return 0 if tensor is None or tensor.dtype == ir.DataType.STRING else int(tensor.nbytes)
