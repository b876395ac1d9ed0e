"""One weight masked: which of its numbers go, what the others become, and what that costs."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxopt.core.errors import InvalidInputError
from onnxopt.graph.linear_maps import LinearMap
from onnxopt.graph.rounding import damping_for
from onnxopt.graph.sparsity import (
    Floats,
    Mask,
    activation_scores,
    least,
    product_error,
    solve_sparse,
)
from onnxopt.passes.pruning.masks import from_quads, in_quads, name_of, order_of, set_to_zero
from onnxopt.pruning.compressing import compressed_size
from onnxopt.pruning.input_moments import InputMoments
from onnxopt.pruning.mask_options import Importance, MaskOptions
from onnxopt.pruning.mask_report import MaskedWeight


def mask_weight(
    site: LinearMap, options: MaskOptions, measure: Importance, moments: InputMoments | None
) -> MaskedWeight:
    """Masks the weight of one product.

    Args:
        site: The product; its weight is replaced.
        options: The pattern, and how many.
        measure: What its zeros are chosen by, if there are moments.
        moments: Of its input; None where it was not observed.

    Raises:
        InvalidInputError: NaN or infinity is in the weight.
    """
    weight: Floats = in_quads(site)
    if not np.isfinite(weight).all():
        raise InvalidInputError(
            f"weight {site.weight.name!r} of node {name_of(site)!r} has NaN or infinity in it: "
            f"leave it out (--exclude {name_of(site)!r})"
        )
    packed = compressed_size(_tensor(site))
    if moments is None:
        measure = measure if measure in ("l1", "l2", "random") else "l2"
    if measure == "hessian" and moments is not None:
        solved = solve_sparse(
            weight,
            _in_order(site, moments.fitting.mean),
            options.pattern,
            options.share,
            damping=damping_for(site.inputs, moments.fitting.rows),
            update=options.repair,
        )
        site.store(from_quads(site, solved), None)
    else:
        set_to_zero(site, _gone(site, weight, options, measure, moments))
    stored = in_quads(site)
    judging = None if moments is None else _in_order(site, moments.judging.mean)
    tensor = _tensor(site)
    return MaskedWeight(
        name_of(site),
        tuple(tensor.shape.numpy()),
        measure,
        float((stored == 0).mean()),
        product_error(weight, stored, judging),
        moments is not None,
        int(tensor.nbytes),
        (packed, compressed_size(tensor)),
    )


def _gone(
    site: LinearMap,
    weight: Floats,
    options: MaskOptions,
    measure: Importance,
    moments: InputMoments | None,
) -> Mask:
    pattern, share = options.pattern, options.share
    if measure == "activation" and moments is not None:
        fitting = _in_order(site, moments.fitting.mean)
        return least(activation_scores(weight, fitting), pattern, share, by_output=True)
    if measure == "random":
        rng = np.random.default_rng([options.seed, *name_of(site).encode()])
        # What is zero already goes first.
        return least(np.where(weight != 0, 1 - rng.random(weight.shape), 0.0), pattern, share)
    return least(np.abs(weight), pattern, share)


def _in_order(site: LinearMap, moments: Floats) -> Floats:
    """Moments with inputs in the order of `in_quads`."""
    order = order_of(site)
    return moments[:, order[:, None], order]


def _tensor(site: LinearMap) -> ir.TensorProtocol:
    tensor = site.weight.const_value
    assert tensor is not None
    return tensor
