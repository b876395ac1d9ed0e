"""Weights in 4 or 8 bits, activations in float: what models that decode tokens are limited by.

    MatMul(x, W) -> MatMulNBits(x, q, scales, zeros)          W ~ (q - zeros) * scales

W is rounded to integers in blocks along the axis that is summed over (`blocks` has the formulas).
`weight_nodes` shows all rewrites; the integers are computed one weight at a time when the model is
saved or run, from weights that stay in their file until then.

Left alone, each with its reason: weights that something else reads as well, since the float copy
would stay; graph inputs and outputs; types other than float32, float16 and bfloat16; weights of
more or fewer than two dimensions; small ones; Gemm with a transposed left side, alpha or beta; what
is in functions. Subgraphs are rewritten like the main graph. Weights that are quantized already
are no matrices of floats, so that a second run changes nothing. The results differ from the
original by the rounding; whoever runs this decides how much of that is fine.
"""

from __future__ import annotations

import dataclasses
import fnmatch
from collections import Counter
from collections.abc import Callable, Iterable
from typing import ClassVar, Literal

import onnx_ir as ir

from onnxopt.core.errors import InvalidInputError
from onnxopt.core.names import Names
from onnxopt.core.passes import Pass, PassResult, Refusal
from onnxopt.core.removal import drop_weight
from onnxopt.graph.block_weights import BlockWeights, quantize_weight
from onnxopt.graph.blocks import BlockEncoding, Method
from onnxopt.graph.lazy_weights import Form, Latest, QuantizedWeight
from onnxopt.passes.quantization.weight_nodes import DOMAIN, rewrite_site
from onnxopt.passes.quantization.weight_sites import RULE, WeightSite, find_sites

Format = Literal["operators", "standard"]
Solver = Callable[[WeightSite, BlockEncoding], Callable[[], BlockWeights]]

STANDARD_OPSET = 21  # DequantizeLinear in blocks, UINT4
_IR_VERSION_OF_INT4 = 10
# Below this a model gains nothing that anyone would notice.
SMALLEST_WEIGHT = 4096


@dataclasses.dataclass(frozen=True, kw_only=True)
class QuantizeWeights(Pass):
    """Stores the weights of MatMul, Gemm and Gather in 4 or 8 bits, in blocks that share a scale.

    Attributes:
        bits: 4 or 8.
        block_size: Weights that share a scale: a power of two from 16 on, or 0 for a whole channel.
        symmetric: No zero points.
        method: "rtn", "mse" or "hqq".
        format: "operators" of com.microsoft, or "standard" ones of opset 21.
        accuracy_level: What MatMulNBits may compute in: 0 float32, 4 int8 activations.
        smallest: Weights of fewer elements are left alone.
        exclude: Names of weights, or patterns as `*embed*`, to leave alone.
    """

    name: ClassVar[str] = "quantize-weights"

    bits: int = 4
    block_size: int = 32
    symmetric: bool = False
    method: Method = "rtn"
    format: Format = "operators"
    accuracy_level: int = 4
    smallest: int = SMALLEST_WEIGHT
    exclude: tuple[str, ...] = ()

    def call(self, model: ir.Model) -> PassResult:
        """Rewrites the main graph and its subgraphs."""
        encoding = BlockEncoding(self.bits, self.block_size, self.symmetric, self.method)
        sites, refusals = find_sites(model, self.smallest)
        chosen = {site: encoding for site in sites if not excluded(site.name, self.exclude)}
        refusals += [Refusal(RULE, s.name, "it is excluded") for s in sites if s not in chosen]
        done, refused = replace_weights(
            model, chosen, format=self.format, accuracy_level=self.accuracy_level
        )
        counts = Counter(f"{site.kind} in {w.encoding.bits} bits" for site, w in done.items())
        return PassResult(model, counts, refusals + refused)


def excluded(name: str, patterns: Iterable[str]) -> bool:
    """True if a name equals a pattern or matches it as file names do."""
    return any(name == pattern or fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def round_to_nearest(site: WeightSite, encoding: BlockEncoding) -> Callable[[], BlockWeights]:
    """Quantizes a weight from its own values alone."""
    return lambda: quantize_weight(site.tensor, encoding, site.axis)


def replace_weights(
    model: ir.Model,
    encodings: dict[WeightSite, BlockEncoding],
    *,
    format: Format = "operators",
    accuracy_level: int = 4,
    solver: Solver = round_to_nearest,
) -> tuple[dict[WeightSite, QuantizedWeight], list[Refusal]]:
    """Puts quantized weights in the place of the given ones.

    Args:
        model: Rewritten in place.
        encodings: Which weights, and how.
        format: Which operators read them.
        accuracy_level: Of MatMulNBits.
        solver: Returns the function that computes a weight when it is asked for.

    Returns:
        The quantized weights, and what could not be done.

    Raises:
        InvalidInputError: The format needs a newer opset than the model has.
    """
    standard = format == "standard"
    if standard and encodings and model.opset_imports.get("", 1) < STANDARD_OPSET:
        raise InvalidInputError(
            f"format standard needs opset {STANDARD_OPSET}, the model has "
            f"{model.opset_imports.get('', 1)}; raise it first (convert-opset)"
        )
    names, latest = Names(model), Latest()
    done: dict[WeightSite, QuantizedWeight] = {}
    refusals = []
    for site, wanted in encodings.items():
        encoding = wanted
        if standard and site.kind == "lookup" and encoding.bits < 8:
            encoding = dataclasses.replace(encoding, bits=8)  # Gather takes no UINT4
        if standard and site.kind == "lookup" and not encoding.block_size:
            reason = "rows that are looked up want blocks; they have no channels"
            refusals.append(Refusal(RULE, site.name, reason))
            continue
        if not standard and not encoding.block_size:
            reason = "the operators want blocks; one scale a channel needs format standard"
            refusals.append(Refusal(RULE, site.name, reason))
            continue
        form: Form = "standard" if standard else "rows" if site.kind == "lookup" else "nbits"
        weight = QuantizedWeight(
            site.name,
            shape=site.shape,
            axis=site.axis,
            encoding=encoding,
            dtype=site.tensor.dtype,
            form=form,
            compute=solver(site, encoding),
            latest=latest,
        )
        rewrite_site(site, weight, names, standard=standard, accuracy_level=accuracy_level)
        done[site] = weight
    for site in done:
        drop_weight(site.value)
    if done and standard:
        model.ir_version = max(model.ir_version or 0, _IR_VERSION_OF_INT4)
    elif done:
        model.opset_imports.setdefault(DOMAIN, 1)
    return done, refusals
