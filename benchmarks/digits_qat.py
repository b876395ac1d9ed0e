"""A digits classifier in float, quantized after training, and trained quantized, side by side.

    python benchmarks/digits_qat.py [--epochs 15] [--bits 8 4 3]

The network of models/digits_cnn.py is trained on scikit-learn's digits. PTQ is torchao's
`prepare_pt2e`, calibrated on training images; QAT is `prepare_qat_pt2e`, trained for a third as
many epochs more, from the float weights. Activations have 8 bits, weights as many as --bits says:
with 8 there is little for training to repair. Every model is saved as a `torch.export` program, and
goes through `onnxopt export FILE.pt2 --optimize`. A row says what the held-out images say: accuracy
in PyTorch and in ONNX Runtime, images whose class differs, and the RMS error between both relative
to the outputs; then how many layers ONNX Runtime runs on integers, by its profile, and speed beside
the float model at a batch of 64 on one thread.
"""

from __future__ import annotations

import argparse
import copy
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "models"), str(ROOT / "benchmarks")]

import torch  # noqa: E402
from digits_cnn import create  # noqa: E402
from digits_data import digits  # noqa: E402
from digits_training import train  # noqa: E402
from measuring import latency_ratios, open_session  # noqa: E402

import onnxopt  # noqa: E402

BATCH = 64
DYNAMIC = ({0: torch.export.Dim("batch", min=1, max=1024)},)


def quantizer(bits: int, *, qat: bool) -> Any:
    """Symmetric weights of so many bits per channel, 8-bit activations."""
    from torchao.testing.pt2e._xnnpack_quantizer import (
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )

    largest = 2 ** (bits - 1) - 1
    config = get_symmetric_quantization_config(
        is_per_channel=True, is_qat=qat, weight_qmin=-largest, weight_qmax=largest
    )
    return XNNPACKQuantizer().set_global(config)


def program(module: Any, images: Any) -> Any:
    """The graph of a module, for any batch."""
    return torch.export.export(module, (images[:BATCH],), dynamic_shapes=DYNAMIC)


def quantize(module: Any, images: Any, bits: int, epochs: int) -> Any:
    """The converted module: calibrated for 0 epochs, else trained as if it were quantized."""
    from torchao.quantization import pt2e
    from torchao.quantization.pt2e import quantize_pt2e

    module = copy.deepcopy(module).train(bool(epochs))
    prepare = quantize_pt2e.prepare_qat_pt2e if epochs else quantize_pt2e.prepare_pt2e
    prepared = prepare(program(module, images).module(), quantizer(bits, qat=bool(epochs)))
    pt2e.allow_exported_model_train_eval(prepared)
    if epochs:
        train(prepared, epochs, rate=1e-3)
    prepared.eval()
    with torch.no_grad():
        for batch in images[:512].split(BATCH):
            prepared(batch)
    return quantize_pt2e.convert_pt2e(prepared)


def measure(name: str, module: Any, folder: Path, base: Path | None) -> Path:
    """Exports a module, prints its row, and returns the ONNX file."""
    data = digits()
    test = torch.from_numpy(data.test_images)
    torch.export.save(program(module, test), folder / f"{name}.pt2")
    result = onnxopt.export(folder / f"{name}.pt2", folder / name, optimize=True)
    for note in result.notes:
        print(f"  ({note})")
    path = folder / name / "model.onnx"
    session = open_session(path, 1)
    entry = session.get_inputs()[0].name
    with torch.no_grad():
        expected = module(test).numpy()
    (logits,) = session.run(None, {entry: data.test_images})
    right = [float((one.argmax(1) == data.test_labels).mean()) for one in (expected, logits)]
    differ = int((expected.argmax(1) != logits.argmax(1)).sum())
    rms = np.sqrt(np.mean((logits - expected) ** 2) / np.mean(expected**2))
    layers = result.files[0].layers
    if layers is None:
        where = "0"
    else:
        where = f"{layers.integer.total()} of {layers.integer.total() + len(layers.floating)}"
    speed = "1"
    if base is not None:
        feeds = {entry: data.test_images[:BATCH]}
        ((ratio, low, high),) = latency_ratios(open_session(base, 1), [session], feeds, seconds=3)
        speed = f"{ratio:.2f} ({low:.2f} to {high:.2f})"
    print(
        f"| {name} | {right[0]:.2%} | {right[1]:.2%} | {differ} | {rms:.1e} | {where} | "
        f"{path.stat().st_size / 1000:.0f} | {speed} |",
        flush=True,
    )
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--bits", type=int, nargs="+", default=[8, 4, 3])
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    # So small a network trains no faster on more threads.
    torch.set_num_threads(1)
    torch.manual_seed(0)
    images = torch.from_numpy(digits().train_images)
    module = create()
    train(module, arguments.epochs)
    module.eval()
    print("| model | PyTorch | ONNX Runtime | differ | RMS error | on integers | kB | speed |")
    print("|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        base = measure("float", module, Path(name), None)
        for bits in arguments.bits:
            for epochs in (0, -(-arguments.epochs // 3)):
                quantized = quantize(module, images, bits, epochs)
                measure(f"{'QAT' if epochs else 'PTQ'} {bits} bits", quantized, Path(name), base)


if __name__ == "__main__":
    main()
