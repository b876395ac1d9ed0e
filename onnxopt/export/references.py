"""What PyTorch computes: the values that every exported model is held against."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxopt.core.errors import InvalidInputError
from onnxopt.export.parts import Case, Part, Shape, size_of, terms
from onnxopt.runtime.inputs.user_functions import user_code
from onnxopt.runtime.parity.comparison import compare
from onnxopt.runtime.parity.difference import Difference

# Two runs on the same inputs agree to the last bit, or nearly, unless random numbers are drawn.
_MOST_NOISE = 1e-4

Arrays = dict[str, NDArray[Any]]
# Few values of a small output lie in the middle between two integers: several tries find some.
_SHIFTS = 4


@dataclasses.dataclass(frozen=True)
class Reference:
    """One run of a part in PyTorch.

    Attributes:
        case: The sizes.
        feeds: Input name to array.
        outputs: Output name to array.
        kept: Output name to what of it is no padding, where a mask says so.
    """

    case: Case
    feeds: Arrays
    outputs: Arrays
    kept: Arrays = dataclasses.field(default_factory=dict)

    def meaningful(self, name: str, array: Any) -> Any:
        """An output with zeros in place of padding."""
        kept = self.kept.get(name)
        fits = isinstance(array, np.ndarray) and array.shape == self.outputs[name].shape
        return np.where(kept, array, array.dtype.type(0)) if kept is not None and fits else array


def run_references(part: Part) -> tuple[Part, list[Reference], list[str]]:
    """Runs all cases of a part in PyTorch.

    Returns:
        The part with the symbolic shapes of its outputs, and with the dimensions fixed that PyTorch
        itself does not run at another size; the runs; notes on what was fixed.

    Raises:
        InvalidInputError: The module fails on its own inputs.
    """
    notes: list[str] = []
    groups = [[s for s in group if s in part.symbols] for group in part.may_fix]
    groups = [group for group in groups if group]
    while True:
        # What fails at the first sizes fails for the user as well.
        runs = [_run(part, part.cases[0])]
        try:
            runs += [_run(part, case) for case in part.cases[1:]]
        except InvalidInputError as error:
            if not groups:
                raise
            symbols = groups.pop(0)
            reason = str(error).partition(": ")[2][:120]
            notes.append(
                f"{part.name}: {' and '.join(symbols)} fixed, PyTorch runs at no other: {reason}"
            )
            part = part.fixed(symbols)
        else:
            part = dataclasses.replace(part, axes=output_axes(part, runs))
            runs = [_without_padding(part, run) for run in runs]
            return part, runs, notes + _randomness(part, runs[0])


def _run(part: Part, case: Case) -> Reference:
    import torch

    def failure(error: BaseException) -> InvalidInputError:
        return InvalidInputError(
            f"{part.name} fails in PyTorch at {case}: {type(error).__name__}: {_first_line(error)}"
        )

    feeds = part.make(case)
    with torch.no_grad(), user_code(wrap=failure):
        # Copies: a module may change its inputs, or return one of them.
        outputs = part.module(*(tensor.clone() for tensor in feeds.values()))
    if isinstance(outputs, torch.Tensor):
        outputs = (outputs,)
    arrays = {
        name: tensor.detach().clone().numpy()
        for name, tensor in zip(part.outputs, outputs, strict=True)
    }
    return Reference(case, {name: tensor.numpy() for name, tensor in feeds.items()}, arrays)


def _without_padding(part: Part, run: Reference) -> Reference:
    """The run, knowing which positions of its outputs are padding."""
    kept = {}
    for name, array in run.outputs.items():
        axis = part.masked_axis(name)
        if axis is None or run.feeds[part.mask].all():
            continue
        valid = run.feeds[part.mask][:, -array.shape[axis] :] != 0
        shape = [1] * array.ndim
        shape[0], shape[axis] = valid.shape
        kept[name] = valid.reshape(shape)
    return dataclasses.replace(run, kept=kept)


def _randomness(part: Part, run: Reference) -> list[str]:
    """A note on outputs that are other ones when the same inputs are run again."""
    again = _run(part, run.case)
    notes = []
    for name, difference in worst([run], [again.outputs]).items():
        if difference.relative > _MOST_NOISE:
            notes.append(
                f"{part.name}: PyTorch itself does not repeat {name!r} on the same inputs: "
                f"relative difference {difference.relative:.1e}, and no less can be checked"
            )
    return notes


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def output_axes(part: Part, runs: Sequence[Reference]) -> dict[str, Shape]:
    """The symbolic shape of every output: which symbol or sum explains its size in all runs."""
    dims = [dim for one in part.inputs for dim in one.shape if isinstance(dim, str)]
    known = list(dict.fromkeys([*part.symbols, *dims]))
    known.sort(key=lambda dim: len(terms(dim)))
    axes: dict[str, Shape] = {}
    for name in part.outputs:
        shapes = [run.outputs[name].shape for run in runs]
        shape: list[int | str] = []
        for axis, sizes in enumerate(zip(*shapes, strict=True)):
            wanted = [
                dim
                for dim in known
                if all(size_of(dim, r.case.sizes) == s for r, s in zip(runs, sizes, strict=True))
            ]
            if wanted and len(runs) > 1:
                shape.append(wanted[0])
            else:
                shape.append(sizes[0] if len(set(sizes)) == 1 else f"{name}_{axis}")
        axes[name] = tuple(shape)
    return axes


@dataclasses.dataclass(frozen=True)
class OwnNoise:
    """How far PyTorch determines its own outputs.

    Attributes:
        differences: Output name to what it changes by where nothing but roundings change.
        quantized: The module computes with integers, or as if it did.
    """

    differences: dict[str, Difference]
    quantized: bool


def own_noise(part: Part, runs: Sequence[Reference]) -> OwnNoise:
    """What the outputs change by when every weight moves by one unit in its last place.

    And, in a quantized module, when values in the middle between two integers are rounded to the
    other one.
    """
    from onnxopt.export.rounding import ShiftedRounding

    with _moved_weights(part.module):
        differences = worst(runs, [_run(part, run.case).outputs for run in runs])
    quantized = False
    for seed in range(_SHIFTS):
        with ShiftedRounding(seed) as rounding:
            shifted = [_run(part, run.case).outputs for run in runs]
        if not rounding.quantizers:
            break
        quantized = True
        found = worst(runs, shifted)
        differences = {name: one.merge(found[name]) for name, one in differences.items()}
    return OwnNoise(differences, quantized)


def worst(runs: Sequence[Reference], results: Sequence[Arrays]) -> dict[str, Difference]:
    """Output name to the largest differences over all runs."""
    found: dict[str, Difference] = {}
    for run, result in zip(runs, results, strict=True):
        for name, array in run.outputs.items():
            other = run.meaningful(name, result.get(name))
            difference = compare(run.meaningful(name, array), other)
            found[name] = difference.merge(found.get(name, difference))
    return found


@contextlib.contextmanager
def _moved_weights(module: Any) -> Iterator[None]:
    """Weights one unit in the last place larger, inside the block."""
    import torch
    from torch.utils._python_dispatch import is_traceable_wrapper_subclass

    # Quantized weights of torchao say that they are float, and are none.
    weights = [
        w
        for w in module.parameters()
        if w.dtype.is_floating_point and not is_traceable_wrapper_subclass(w)
    ]

    def move(limit: float) -> None:
        with torch.no_grad():
            for weight in weights:  # in place: there may be no room for a copy
                towards = torch.tensor(limit, dtype=weight.dtype)
                torch.nextafter(weight, towards, out=weight)

    move(float("inf"))
    try:
        yield
    finally:
        move(-float("inf"))
