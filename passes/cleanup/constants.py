"""Fold what is the same in every run into initializers.

    fold                     Add(w, Transpose(v))            =>  initializer
    constant-to-initializer  Constant                        =>  initializer
    known-shape              Shape(x) -> .. -> Reshape(x, .) =>  Reshape(x, [0, -1, 384])
                             Expand(x, [N, 4])               =>  Expand(x, [1, 4])
                             Slice(x, end=size of x)         =>  Slice(x, end=infinity)
                             Resize(x, sizes=[N, 3, 28, 28]) =>  Resize(x, scales=[1, 1, 2, 2])
    remove-expand            Expand(x, shape of x)           =>  x
    resolve-cast-like        CastLike(x, y)                  =>  Cast(x)

One forward sweep finds the constants; only values that something else still reads are computed and
stored. The nodes and initializers that lose their last reader are removed. In a Reshape, 0 copies
a dimension of the input and -1 is the rest, so sizes that are not known need not be computed.

Refused: operators that are random, too much work or not evaluated; dequantized weights, so that QDQ
graphs keep their form; results that would make the file larger by more than the stated limits
(expanded constants, transposed copies of weights that other nodes still read); initializers that
are graph inputs as well, which a user can override; new shapes with two unknown dimensions.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import onnx_ir as ir

from onnxopt.core.errors import InvalidInputError
from onnxopt.core.passes import Pass, PassResult
from onnxopt.graph.folding import Folding


@dataclasses.dataclass(frozen=True, kw_only=True)
class FoldConstants(Pass):
    """Computes constant values once, here. Subgraphs are folded as well, functions are not.

    Attributes:
        max_growth: By how many bytes one folded value may exceed the initializers that it makes
            obsolete. All of them together may exceed four times this, or 5 % of the weights.
            Results of at most 64 bytes (shapes, axes) are free.

    Raises:
        InvalidInputError: `max_growth` is negative.
    """

    name: ClassVar[str] = "fold-constants"

    max_growth: int = 1 << 20

    def __post_init__(self) -> None:
        if self.max_growth < 0:
            raise InvalidInputError(f"{self.name}: max-growth is {self.max_growth}, not 0 or more")

    def call(self, model: ir.Model) -> PassResult:
        """Folds in place. Types and shapes on all values are inferred anew on the way."""
        folding = Folding(model, self.max_growth)
        folding.run()
        return PassResult(model, folding.rewrites, folding.refusals)
