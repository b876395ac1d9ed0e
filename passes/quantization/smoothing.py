"""SmoothQuant: the size of activation channels moves into the weights that read them.

    LayerNorm(u; g, h) W  =>  LayerNorm(u; g / s, h / s) (s W)
    f(V u + b) W          =>  f((V / s) u + b / s) (s W)          f: Relu, LeakyRelu, pooling
    (a * g) W             =>  (a * (g / s)) (s W)

Some channels of activations are a hundred times larger than the others, which share their scale and
lose all precision; weights have a scale for each output channel and bear it better (Xiao et al.,
"SmoothQuant: Accurate and Efficient Post-Training Quantization for Large Language Models", 2022).
The scales are an option, found by `quantizing.smoothing`; the pass is exact but for rounding.

Where other nodes read the value as well, as the residual of a BERT does, a Mul by 1 / s is put in
front of the products if `insert` says so. Refused, with the reason: what else has no place for the
division. Only the main graph, whose values are observed. Scales are used up: a value that was
divided is marked, and is left alone by a second run.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import ClassVar

import onnx_ir as ir

from onnxopt.core.names import Names
from onnxopt.core.passes import Pass, PassResult, Refusal
from onnxopt.graph.calibrated import NO_SCALES, ChannelScales
from onnxopt.graph.channel_links import find_links

_RULE = "smooth"
_DONE = "onnxopt.smoothed"


@dataclasses.dataclass(frozen=True, kw_only=True)
class SmoothActivations(Pass):
    """Divides channels of activations by scales and multiplies the weights that read them.

    Attributes:
        scales: By value, what its channels are divided by.
        insert: Put a Mul in front of products where nothing else can take the division in.
    """

    name: ClassVar[str] = "smooth-activations"
    claims_speed: ClassVar[bool] = False

    scales: ChannelScales = NO_SCALES
    insert: bool = False

    def call(self, model: ir.Model) -> PassResult:
        """Scales values of the main graph."""
        rewrites: Counter[str] = Counter()
        names = Names(model)
        links, reasons = find_links(model.graph, insert=self.insert)
        refusals = [Refusal(_RULE, node, reason) for node, reason in reasons.items()]
        for link in links:
            scales = self.scales.get(link.value.name or "")
            if scales is None or _DONE in link.value.metadata_props:
                continue
            if scales.size != link.channels:
                reason = f"{scales.size} scales do not fit {link.channels} channels"
                refusals.append(Refusal(_RULE, link.value.name or "", reason))
                continue
            link.apply(scales, names)
            link.value.metadata_props[_DONE] = "1"
            rewrites[link.kind] += 1
        return PassResult(model, rewrites, refusals)
