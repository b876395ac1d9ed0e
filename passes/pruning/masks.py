"""Zeros in weights, which keep their shapes.

    MatMul x w[k, n]   =>   MatMul x (w * mask)[k, n]

The smallest numbers by magnitude become zero: a share `sparsity` of every weight, or, in the
pattern 2:4, two of every four neighbours along the summed axis (input channels of a Conv), which
some GPUs and NPUs have instructions for. ONNX Runtime runs them no faster; files compress better.
The result is approximate: a guard of parity would undo it. `onnxopt prune --mask` chooses on
calibration data.

Refused: small weights, which cost most and save least; weights that something else reads, too; in
the pattern 2:4, numbers of inputs that are no multiple of 4; NaN or infinity; quantized models;
operators and forms of them that are no plain product with a weight. Subgraphs are masked like the
main graph, functions are left alone.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxopt.core.errors import InvalidInputError
from onnxopt.core.passes import Pass, PassResult, Refusal
from onnxopt.core.walking import all_nodes
from onnxopt.graph.linear_maps import LinearMap, is_shared, linear_map
from onnxopt.graph.sparsity import OF, Mask, Pattern, least
from onnxopt.passes.pruning.quantized import quantized_node

RULE = "masked-weight"
# A first convolution has little else to tell its inputs by.
SMALLEST_WEIGHT = 1024
_HALF = 0.5
_WITH_WEIGHTS = frozenset({"Conv", "ConvTranspose", "GRU", "Gemm", "LSTM", "MatMul", "RNN"})


@dataclasses.dataclass(frozen=True, kw_only=True)
class MaskWeights(Pass):
    """Sets a share of every weight to zero, the smallest ones; shapes and speed stay.

    Attributes:
        sparsity: Share of each weight, over 0 and below 1; half in the pattern 2:4.
        pattern: "unstructured" or "2:4".
        smallest: Weights of fewer numbers are left alone.
    """

    name: ClassVar[str] = "mask-weights"
    claims_speed: ClassVar[bool] = False

    sparsity: float = _HALF
    pattern: Pattern = "unstructured"
    smallest: int = SMALLEST_WEIGHT

    def call(self, model: ir.Model) -> PassResult:
        """Masks one weight at a time; zeros are set when it is read."""
        check_sparsity(self.sparsity, self.pattern)
        quantized = quantized_node(model)
        if quantized is not None:
            reason = "the model is quantized; mask the float model, then quantize it"
            return PassResult(model, refusals=[Refusal(RULE, quantized, reason)])
        sites, refusals = maskable(model, self.pattern, self.smallest)
        rewrites: Counter[str] = Counter()
        for site in sites:
            matrices = in_quads(site)
            if not np.isfinite(matrices).all():
                refusals.append(Refusal(RULE, name_of(site), "NaN or infinity is in its weight"))
                continue
            gone = least(np.abs(matrices), self.pattern, self.sparsity)
            if (matrices[gone] != 0).any():
                set_to_zero(site, gone)
                rewrites[RULE] += 1
        return PassResult(model, rewrites, refusals)


def check_sparsity(sparsity: float, pattern: Pattern) -> None:
    """Raises if so many zeros cannot be."""
    if not 0 < sparsity < 1:
        raise InvalidInputError(f"sparsity of a mask is over 0 and below 1, not {sparsity}")
    if pattern == "2:4" and sparsity != _HALF:
        raise InvalidInputError(f"a mask of 2:4 sets half of a weight to zero, not {sparsity}")


def maskable(
    model: ir.Model, pattern: Pattern, smallest: int = SMALLEST_WEIGHT
) -> tuple[list[LinearMap], list[Refusal]]:
    """Products with a weight that can be masked, and what is left alone, with the reason."""
    sites, refusals = [], []
    for node in all_nodes(model.graph):
        site = linear_map(node)
        if site is None:
            reason = "it is no plain product with a weight" if _has_weight(node) else ""
        elif site.inputs * site.outputs < smallest:
            reason = f"its weight has fewer than {smallest:,} numbers"
        elif is_shared(site.weight):
            reason = "something else reads its weight, too"
        elif pattern == "2:4" and _channels(site) % OF:
            reason = f"it sums over {_channels(site)} inputs, no multiple of {OF}"
        else:
            sites.append(site)
            continue
        if reason:
            name = node.name or node.outputs[0].name or node.op_type
            refusals.append(Refusal(RULE, name, reason))
    return sites, refusals


def name_of(site: LinearMap) -> str:
    """What to call a product."""
    return site.node.name or site.output.name or ""


def in_quads(site: LinearMap) -> NDArray[np.float64]:
    """Its weight, `[group, inputs, outputs]`, with inputs in the order of `order_of`."""
    return site.matrices()[:, order_of(site)]


def order_of(site: LinearMap) -> NDArray[np.intp]:
    """Inputs such that the channels at one position of a Conv's kernel are neighbours."""
    places = np.arange(site.inputs)
    return places.reshape(_channels(site), -1).T.reshape(-1)


def from_quads(site: LinearMap, matrices: NDArray[Any]) -> NDArray[Any]:
    """The opposite of `in_quads`, for any array of that shape."""
    found = np.empty_like(matrices)
    found[:, order_of(site)] = matrices
    return found


def set_to_zero(site: LinearMap, gone: Mask) -> None:
    """Zeros in a weight; of what is set a bit is kept for each number until it is read.

    Args:
        site: The product.
        gone: As `in_quads`.
    """
    old = site.weight.const_value
    assert old is not None
    mask = np.ascontiguousarray(site.stored(from_quads(site, gone)))
    shape, bits = mask.shape, np.packbits(mask)

    def read() -> ir.TensorProtocol:
        array = np.array(old.numpy())
        array[np.unpackbits(bits, count=array.size).reshape(shape).astype(bool)] = 0
        return ir.Tensor(array, dtype=old.dtype, name=old.name)

    site.weight.const_value = ir.LazyTensor(
        read, dtype=old.dtype, shape=ir.Shape(shape), name=old.name
    )


def _channels(site: LinearMap) -> int:
    tensor = site.weight.const_value
    assert tensor is not None
    return int(tensor.shape.numpy()[site.input_axis])


def _has_weight(node: ir.Node) -> bool:
    if node.domain or node.op_type not in _WITH_WEIGHTS:
        return False
    return any(value is not None and value.const_value is not None for value in node.inputs[:2])
