"""Cross-layer equalization: channels that differ in size are made alike before they share a scale.

    y = V f(W x + b)  =>  y = (V s) f((W / s) x + b / s)         f(a z) = a f(z) for a > 0

with s_i = sqrt(|W_i| / |V_i|), by the largest weights that make channel i and that read it, after
which both are sqrt(|W_i| |V_i|) (Nagel et al., "Data-Free Quantization Through Weight Equalization
and Bias Correction", 2019). f may be Relu, LeakyRelu and pooling, or nothing; Conv, also depthwise,
Gemm and MatMul (with the Add of a bias) are scaled. A channel between two layers changes both, so
this goes over all pairs until nothing moves. Exact but for rounding of float32.

Refused, with the reason: values that anything else reads; weights and biases with other readers,
which are never changed under them; Clip, which is not the same for scaled values. Channels of
zeros keep their size. Subgraphs are rewritten like the main graph. Functions are not entered.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import ClassVar

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxopt.core.names import Names
from onnxopt.core.passes import Pass, PassResult, Refusal
from onnxopt.core.walking import all_graphs
from onnxopt.graph.channel_links import ChannelLink, find_links
from onnxopt.graph.products import Product

_RULE = "equalize"
# Steps until pairs of a long chain agree; the largest factor still left is then a percent or so.
_SWEEPS = 40
_SETTLED = 0.02
# Beyond these, a channel is as good as empty, and its weights would overflow.
_LARGEST = 1e4


@dataclasses.dataclass(frozen=True, kw_only=True)
class EqualizeLayers(Pass):
    """Scales channels between two layers so that the weights on both sides are of like size."""

    name: ClassVar[str] = "equalize-layers"
    claims_speed: ClassVar[bool] = False

    def call(self, model: ir.Model) -> PassResult:
        """Equalizes the main graph and its subgraphs."""
        rewrites: Counter[str] = Counter()
        refusals: list[Refusal] = []
        names = Names(model)
        for graph in list(all_graphs(model)):
            links, reasons = find_links(graph)
            refusals += [Refusal(_RULE, node, reason) for node, reason in reasons.items()]
            pairs = [link for link in links if link.producer is not None]
            for link, scales in _balanced(pairs):
                link.apply(scales, names)
                rewrites[link.kind] += 1
        return PassResult(model, rewrites, refusals)


def _balanced(links: list[ChannelLink]) -> list[tuple[ChannelLink, NDArray[np.float32]]]:
    """The links whose channels are not yet alike, with their scales."""
    sizes = {
        product.node: _sizes(product)
        for link in links
        for product in (link.producer, *link.consumers)
        if product is not None
    }
    scales = [np.ones(link.channels, np.float32) for link in links]
    for _ in range(_SWEEPS):
        moved = 0.0
        for link, known in zip(links, scales, strict=True):
            assert link.producer is not None
            made = sizes[link.producer.node]
            read = [sizes[product.node] for product in link.consumers]
            before = made.max(axis=1).reshape(-1)
            after = np.max([one.max(axis=2).reshape(-1) for one in read], axis=0)
            usable = (before > 0) & (after > 0)
            step = np.ones_like(known)
            step[usable] = np.sqrt(before[usable] / after[usable])
            step = np.clip(known * step, 1 / _LARGEST, _LARGEST) / known
            made /= step.reshape(len(made), 1, -1)
            for one in read:
                one *= step.reshape(len(one), -1, 1)
            known *= step
            moved = max(moved, float(np.abs(np.log(step)).max(initial=0.0)))
        if moved < _SETTLED / 4:
            break
    return [
        (link, found)
        for link, found in zip(links, scales, strict=True)
        if np.abs(np.log(found)).max(initial=0.0) > _SETTLED
    ]


def _sizes(product: Product) -> NDArray[np.float32]:
    """The largest weight from every input channel to every output channel, by group."""
    matrices = np.abs(product.matrices())
    groups, length, outputs = matrices.shape
    kernel = groups * length // product.channels
    largest: NDArray[np.float32] = np.max(
        matrices.reshape(groups, length // kernel, kernel, outputs), axis=2
    )
    return largest
