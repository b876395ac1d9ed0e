"""What is exported into one file: a module with flat, named inputs and outputs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

# A torch.Tensor; torch itself is imported where it is used.
Tensor = Any
Sizes = Mapping[str, int]
Shape = tuple[int | str, ...]


@dataclasses.dataclass(frozen=True)
class Case:
    """One set of inputs to run a part on.

    Attributes:
        sizes: Size of every symbol.
        ragged: Masks have padding.
        seed: Seed of the values.
    """

    sizes: Sizes
    ragged: bool = False
    seed: int = 0

    def __str__(self) -> str:
        """As "batch=2, sequence=5, ragged mask"."""
        words = [f"{symbol}={size}" for symbol, size in self.sizes.items()]
        return ", ".join(words + ["ragged mask"] * self.ragged) or "fixed shapes"


@dataclasses.dataclass(frozen=True)
class Scene:
    """What a filling may look at.

    Attributes:
        case: The case.
        made: Inputs that were made before.
        generator: Source of random numbers (`torch.Generator`).
    """

    case: Case
    made: Mapping[str, Tensor]
    generator: Any


Filling = Callable[[tuple[int, ...], Scene], Tensor]


@dataclasses.dataclass(frozen=True)
class Input:
    """One input of a part.

    Attributes:
        name: Its name in the graph.
        shape: Sizes and symbols ("batch", "past + sequence").
        fill: Makes a tensor of a given shape.
    """

    name: str
    shape: Shape
    fill: Filling


@dataclasses.dataclass(frozen=True)
class Part:
    """One file of an export.

    Attributes:
        name: The file's name without its suffix.
        module: Takes the inputs by position and returns a tuple of tensors.
        inputs: The inputs, in order.
        outputs: Names of the outputs, in order.
        cases: What to run it on; the exporters trace the first one.
        axes: Output name to its symbolic shape; found by running the cases.
        program: A `torch.export.ExportedProgram` to convert in place of tracing the module.
        mask: Name of the attention mask; outputs at padding mean nothing and are not compared.
        may_fix: Groups of symbols to fix, in turn, where PyTorch itself runs at no other size.
    """

    name: str
    module: Any
    inputs: tuple[Input, ...]
    outputs: tuple[str, ...]
    cases: tuple[Case, ...]
    axes: Mapping[str, Shape] = dataclasses.field(default_factory=dict)
    program: Any = None
    mask: str = ""
    may_fix: tuple[tuple[str, ...], ...] = ()

    @property
    def symbols(self) -> list[str]:
        """Symbols of all inputs, in order, without sums."""
        return list(dict.fromkeys(s for i in self.inputs for d in i.shape for s in terms(d)))

    def make(self, case: Case) -> dict[str, Tensor]:
        """The inputs of a case."""
        import torch

        generator = torch.Generator().manual_seed(case.seed)
        made: dict[str, Tensor] = {}
        for one in self.inputs:
            shape = tuple(size_of(dim, case.sizes) for dim in one.shape)
            made[one.name] = one.fill(shape, Scene(case, made, generator))
        return made

    def masked_axis(self, output: str) -> int | None:
        """The axis of an output along which the mask says what is padding.

        It has the mask's own size, or that of the tokens, which are the last part of it.
        """
        mask = next((one for one in self.inputs if one.name == self.mask), None)
        axes = self.axes.get(output, ())
        if mask is None or not axes or axes[0] != mask.shape[0]:
            return None
        sizes = (mask.shape[1], terms(mask.shape[1])[-1:])
        return next(
            (a for a, dim in enumerate(axes) if a and (dim == sizes[0] or [dim] == sizes[1])), None
        )

    def fixed(self, symbols: Sequence[str]) -> Part:
        """The part with some symbols replaced by their size in the first case."""
        sizes = self.cases[0].sizes
        inputs = tuple(
            dataclasses.replace(
                one,
                shape=tuple(sizes[d] if d in symbols else d for d in one.shape),  # type: ignore[index]
            )
            for one in self.inputs
        )
        cases = tuple(
            dataclasses.replace(
                case, sizes={s: size for s, size in case.sizes.items() if s not in symbols}
            )
            for case in self.cases
        )
        return dataclasses.replace(self, inputs=inputs, cases=cases, axes={})


def terms(dim: int | str) -> list[str]:
    """The symbols that a dimension is the sum of."""
    return dim.split(" + ") if isinstance(dim, str) else []


def size_of(dim: int | str, sizes: Sizes) -> int:
    """The size of a dimension."""
    return dim if isinstance(dim, int) else sum(sizes[term] for term in terms(dim))
