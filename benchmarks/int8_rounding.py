"""Ways to round weights to 8 bits against data: to the nearest, GPTQ, and AdaRound.

    python benchmarks/int8_rounding.py [FOLDER --models NAME ...] [--minilm FOLDER] [--layers 6]

Errors of products on rows that were not used to round, relative to those of the nearest integers
(geometric mean over layers), and CPU seconds for all layers. AdaRound is its authors' relaxation on
the same second moments: a rectified sigmoid for every weight, 1000 steps of Adam, and a regularizer
that ends at 0 or 1 (Nagel et al., "Up or Down? Adaptive Rounding for Post-Training Quantization",
2020). Needs torch.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from int8_repair import digits, sentences, tasks
from numpy.typing import NDArray

from onnxopt.calibration.data import open_data
from onnxopt.calibration.product_rows import product_rows
from onnxopt.graph.products import product_of
from onnxopt.graph.rounding import damping_for, round_with_moments
from onnxopt.quantizing.options import QuantizeOptions
from onnxopt.quantizing.preparing import prepare
from onnxopt.runtime.diagnosis.probing import Probe

_STEPS, _RATE = 1000, 1e-2
_LOW, _HIGH = -0.1, 1.1  # of the rectified sigmoid
_WARM_UP = 0.2
Array = NDArray[Any]
Method = Callable[[Array, Array, Array, int], Array]  # weight, scale, moments, their rows


def nearest(weight: Array, scale: Array, moments: Array, rows: int) -> Array:
    """The nearest integers."""
    return np.clip(np.rint(weight / scale), -127, 127)


def gptq(weight: Array, scale: Array, moments: Array, rows: int) -> Array:
    """The product's solver, damped as much as the rows want."""
    damping = damping_for(weight.shape[1], rows)
    return round_with_moments(weight, scale, moments, 127, damping=damping)


def usual_gptq(weight: Array, scale: Array, moments: Array, rows: int) -> Array:
    """With the damping of GPTQ's authors."""
    return round_with_moments(weight, scale, moments, 127, damping=0.01)


def adaround(weight: Array, scale: Array, moments: Array, rows: int) -> Array:
    """Learned rounding, up or down."""
    w, s, h = (torch.from_numpy(np.ascontiguousarray(a)) for a in (weight, scale, moments))
    damping = 0.01 * torch.diagonal(h, dim1=1, dim2=2).mean()
    h = h + damping * torch.eye(h.shape[1])
    floor = torch.floor(w / s)
    rest = ((w / s - floor) - _LOW) / (_HIGH - _LOW)
    up = torch.logit(rest).requires_grad_()
    optimizer = torch.optim.Adam([up], lr=_RATE)
    start = float(torch.einsum("gkn,gkl,gln->", w, h, w)) * 1e-5
    for step in range(_STEPS):
        share = torch.clamp(torch.sigmoid(up) * (_HIGH - _LOW) + _LOW, 0, 1)
        error = (floor + share) * s - w
        loss = torch.einsum("gkn,gkn->", error, h @ error) / start
        if step > _WARM_UP * _STEPS:
            beta = 20 - 18 * (step / _STEPS - _WARM_UP) / (1 - _WARM_UP)
            loss = loss + 0.01 * (1 - (2 * share - 1).abs().pow(beta)).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    chosen = floor + (torch.sigmoid(up) * (_HIGH - _LOW) + _LOW > 0.5)
    return np.clip(chosen.detach().numpy(), -127, 127)


METHODS: dict[str, Method] = {
    "nearest": nearest,
    "GPTQ, damping 0.01": usual_gptq,
    "GPTQ, damped by rows": gptq,
    "AdaRound": adaround,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--minilm", type=Path)
    parser.add_argument("--models", nargs="+", default=["digits_cnn", "digits_transformer"])
    parser.add_argument("--layers", type=int, default=6)
    arguments = parser.parse_args()
    cases = [digits()]
    if arguments.folder is not None:
        cases.append(tasks(arguments.folder, 64))
        if arguments.minilm is not None:
            encoder = sentences(arguments.minilm, arguments.folder, 64)
            cases.append(iter([("minilm", encoder)]))
    print("| model | rounding | error | CPU seconds |\n|---|---|---|---|")
    for name, (path, feeds, _) in itertools.chain.from_iterable(cases):
        if name not in arguments.models:
            continue
        model = prepare(path, QuantizeOptions(), {}).work
        data, probe = open_data(feeds, model), Probe(model)
        products = [p for node in probe.model.graph if (p := product_of(node)) is not None]
        products = products[:: -(-len(products) // arguments.layers)]
        calibrating, measuring = data.split(16)
        seen = list(product_rows(probe, products, data, calibrating))
        other = [rows for _, rows in product_rows(probe, products, data, measuring)]
        errors: dict[str, list[float]] = {method: [] for method in METHODS}
        for method, function in METHODS.items():
            start = time.process_time()
            for (product, rows), held_out in zip(seen, other, strict=True):
                weight = np.ascontiguousarray(product.matrices())
                scale = np.abs(weight).max(axis=1, keepdims=True) / np.float32(127)
                scale = np.maximum(scale, np.float32(1e-20))
                moments = rows.transpose(0, 2, 1) @ rows / np.float32(rows.shape[1])
                integers = function(weight, scale, moments, rows.shape[1])
                lost = held_out @ (integers * scale - weight).astype(np.float32)
                errors[method].append(float(np.linalg.norm(lost)))
            seconds = time.process_time() - start
            ratio = np.exp(np.mean(np.log(np.array(errors[method]) / errors["nearest"])))
            print(f"| {name} | {method} | {ratio:.3f} | {seconds:.1f} |", flush=True)


if __name__ == "__main__":
    main()
