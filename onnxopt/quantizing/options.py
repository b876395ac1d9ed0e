"""What the user asks of `quantize`, checked."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from typing import Literal, get_args

from onnxopt.calibration.observers import DEFAULT_PERCENTILE, METHODS, Method
from onnxopt.core.errors import InvalidInputError
from onnxopt.graph.quantization import INTEGER_TYPES, IntegerType
from onnxopt.targets import Target

Mode = Literal["auto", "dynamic", "static"]
Repair = Literal["equalize", "smooth", "insert", "ranges", "rounding"]
REPAIRS: tuple[Repair, ...] = get_args(Repair)
# Those that are cheap and helped most models; benchmarks/int8_repair.py measures all.
AUTO_REPAIRS: tuple[Repair, ...] = ("smooth", "insert", "rounding")
# Inputs that were not measured on are off by more: this much keeps most of them under 5 %.
DEFAULT_MAX_ERROR = 0.04
DEFAULT_MAX_ACCURACY_DROP = 0.01
DEFAULT_BUDGET = 180.0
# What two equal outputs may differ in their cosine by rounding alone.
_SMALLEST = 1e-7


@dataclasses.dataclass(frozen=True, kw_only=True)
class QuantizeOptions:
    """The choices of one run.

    Attributes:
        mode: Which forms to try.
        target: Where the result will run.
        activation_type: Integer type of activations in static forms; None for the target's.
        weight_type: Integer type of weights in static forms.
        per_channel: A scale for each output channel of a weight.
        reduce_range: 7 bits for weights; None for where the target saturates.
        method: How ranges are chosen; None for the method with the least error of the output.
        percentile: For the method of that name.
        exclude: Globs of names of nodes that stay in float.
        correct_bias: Let biases make up for the mean error of rounded weights, where data is given.
        embeddings: Store tables of Gather as integers as well.
        max_error: The largest error of an output, relative to its scale.
        min_cosine: The smallest cosine of an output with its reference.
        max_accuracy_drop: By how much the metric or the top-1 accuracy may be lower than the float
            model's, where there are labels or a metric.
        judged: There are: the error has no limit then, unless it is given.
        repair: Accuracy repairs to try, in order; "auto" for those that pay, "none" for none.
        budget: About how many seconds the search may take.
        force: Keep the form asked for even if it is slower than float or over the budget.
    """

    mode: Mode = "auto"
    target: Target = dataclasses.field(default_factory=Target)
    activation_type: IntegerType | None = None
    weight_type: IntegerType = "int8"
    per_channel: bool = True
    reduce_range: bool | None = None
    method: Method | None = None
    percentile: float = DEFAULT_PERCENTILE
    exclude: tuple[str, ...] = ()
    correct_bias: bool = True
    embeddings: bool = False
    max_error: float | None = None
    min_cosine: float | None = None
    max_accuracy_drop: float = DEFAULT_MAX_ACCURACY_DROP
    judged: bool = False
    repair: tuple[str, ...] = ("auto",)
    budget: float = DEFAULT_BUDGET
    force: bool = False

    def __post_init__(self) -> None:
        _one_of("mode", self.mode, get_args(Mode))
        _one_of("weight type", self.weight_type, INTEGER_TYPES)
        if self.activation_type is not None:
            _one_of("activation type", self.activation_type, INTEGER_TYPES)
        if self.method is not None:
            _one_of("method", self.method, METHODS)
        if not 50.0 < self.percentile <= 100.0:
            raise InvalidInputError(
                f"the percentile is over 50 and at most 100, not {self.percentile}"
            )
        if self.max_error is not None and not (self.max_error > 0):
            raise InvalidInputError(f"the largest error is more than 0, not {self.max_error}")
        if self.min_cosine is not None and not -1 <= self.min_cosine <= 1:
            raise InvalidInputError(f"a cosine is from -1 to 1, not {self.min_cosine}")
        if not self.max_accuracy_drop >= 0:
            raise InvalidInputError(f"an accuracy drop is 0 or more, not {self.max_accuracy_drop}")
        for name in self.repair:
            _one_of("repair", name, ("auto", "none", *REPAIRS))
        if "none" in self.repair and len(self.repair) > 1:
            raise InvalidInputError("repair is none, or a list of repairs, not both")
        if not self.budget > 0:
            raise InvalidInputError("the budget of the search has to be more than 0 seconds")

    @property
    def is_forced(self) -> bool:
        """True if the form asked for is wanted even if it is slower or over the budget."""
        return self.force and self.mode != "auto"

    @property
    def error_limit(self) -> float:
        """The largest error that is allowed; without a limit of the user's the default."""
        if self.max_error is not None:
            return self.max_error
        free = self.min_cosine is not None or self.judged
        return math.inf if free else DEFAULT_MAX_ERROR

    @property
    def repairs(self) -> tuple[str, ...]:
        """The repairs to try, each once."""
        expanded = [AUTO_REPAIRS if name == "auto" else (name,) for name in self.repair]
        names = dict.fromkeys(name for some in expanded for name in some)
        return tuple(name for name in names if name != "none")

    @property
    def corrects(self) -> bool:
        """True if bias correction may be tried."""
        return self.correct_bias and self.weight_type == "int8"

    def share_of_budget(self, error: float, cosine: float) -> float:
        """How much of the budget of error is used up: at most 1 within it."""
        used = error / self.error_limit
        if self.min_cosine is not None:
            used = max(used, (1 - cosine) / max(1 - self.min_cosine, _SMALLEST))
        return used

    @property
    def saturates(self) -> bool:
        """True if weights get 7 bits."""
        if self.reduce_range is not None:
            return self.reduce_range
        return self.target.provider == "cpu" and self.target.eight_bit_products_saturate

    @property
    def can_be_unsigned(self) -> bool:
        """True if uint8 weights have a bit more than int8 weights, and the user left it open."""
        return self.saturates and not self.reduce_range and self.weight_type == "int8"

    @property
    def tries_products(self) -> bool:
        """True if products of two activations may pay.

        On CPUs whose kernels saturate they do not (`benchmarks/int8_attention.py`).
        """
        return self.mode != "dynamic" and not (
            self.target.provider == "cpu" and self.target.eight_bit_products_saturate
        )

    @property
    def is_symmetric(self) -> bool:
        """True for the form that TensorRT and CUDA take."""
        return self.target.provider == "cuda"

    @property
    def activations(self) -> IntegerType:
        """The integer type of activations."""
        return self.activation_type or ("int8" if self.is_symmetric else "uint8")


def split_names(given: str | Iterable[str]) -> tuple[str, ...]:
    """A list of names, also as "a,b"."""
    return tuple(given.split(",") if isinstance(given, str) else given)


def _one_of(what: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise InvalidInputError(f"the {what} is one of {', '.join(choices)}, not {value!r}")
