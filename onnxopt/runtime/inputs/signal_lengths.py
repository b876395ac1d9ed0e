"""How long a signal of audio has to be at least: ONNX Runtime crashes on less than one frame.

Networks that read waveforms cut them into frames, by STFT or by slices and loops of their own. On a
shorter signal the STFT of ONNX Runtime 1.32 reads beyond it or divides by zero, which ends the
process.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import onnx_ir as ir

from onnxopt.core.walking import all_bodies
from onnxopt.graph.constants import constant_tensor
from onnxopt.runtime.inputs.axes import InputSpec, symbols_of

_WAVEFORM = re.compile(r"wav|audio|speech|pcm|sound|signal", re.I)
_FRAME, _WINDOW = 3, 2  # inputs of STFT
# Where the graph does not say: 32 ms at 16 kHz.
_USUAL = 512


def shortest_signals(specs: Sequence[InputSpec], model: ir.Model) -> dict[str, int]:
    """Symbols of the lengths of signals to the fewest samples that they need."""
    frames = [_frame(node) for body in all_bodies(model) for node in body if node.op_type == "STFT"]
    return {
        symbol: max(frames, default=_USUAL)
        for spec in specs
        if spec.role.kind == "signal" and (frames or _WAVEFORM.search(spec.name))
        for symbol in _length(spec)
    }


def _length(spec: InputSpec) -> Iterator[str]:
    """The symbols of the axis that counts samples, the last one: [batch, samples]."""
    dim = spec.dims[-1] if spec.dims else 0
    if isinstance(dim, str) and (len(spec.dims) <= 2 or spec.dims[-2] == 1):
        yield from symbols_of(dim)


def _frame(node: ir.Node) -> int:
    frame = _constant(node, _FRAME)
    if frame is not None and frame.size == 1 and frame.dtype.is_integer():
        return int(frame.numpy().item())
    window = _constant(node, _WINDOW)
    return _USUAL if window is None else window.size


def _constant(node: ir.Node, position: int) -> ir.TensorProtocol | None:
    value = node.inputs[position] if position < len(node.inputs) else None
    if value is None:
        return None
    producer = value.producer()
    if producer is not None and producer.op_type == "Constant":
        return constant_tensor(producer)
    return value.const_value
