"""How far models are from one reference on the same inputs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import onnx_ir as ir

from onnxopt.runtime.inputs.plan import InputPlan, InputSet
from onnxopt.runtime.inputs.trials import run_plan, run_sets
from onnxopt.runtime.library import CannotRunError
from onnxopt.runtime.parity.comparison import compare
from onnxopt.runtime.parity.difference import Difference
from onnxopt.runtime.session import Feeds, open_session


@dataclasses.dataclass(frozen=True)
class Deviation:
    """The worst over all outputs and input sets.

    Attributes:
        error: Largest error relative to the larger of the element and the output's scale.
        rms: Root mean square of the error relative to that of the reference.
        cosine: Smallest cosine between an output and its reference.
        output: Name of the output with the largest error.
        broken: What makes an output incomparable; empty if nothing does.
        typical: As `rms`, but the mean over input sets: it depends on no single one.
    """

    error: float
    rms: float
    cosine: float
    output: str
    broken: str = ""
    typical: float = 0.0


class Reference:
    """A model's outputs on some inputs, to compare others with.

    Args:
        model: The reference.
        sets: The inputs; a plan to make them where there are none of the user's.
        providers: Execution providers.

    Attributes:
        sets: The inputs that it ran on.
        seconds: How long that took.

    Raises:
        CannotRunError: It does not run.
    """

    def __init__(
        self, model: ir.Model, sets: Sequence[InputSet] | InputPlan, providers: Sequence[str]
    ) -> None:
        self._providers = tuple(providers)
        session = open_session(model, spinning=False, providers=self._providers)
        trials = run_plan(session, sets) if isinstance(sets, InputPlan) else run_sets(session, sets)
        self.sets = trials.sets
        self._outputs = trials.outputs
        self.seconds = trials.seconds

    @property
    def feeds(self) -> Feeds:
        """The first inputs."""
        return self.sets[0].feeds

    @property
    def outputs(self) -> Sequence[Mapping[str, Any]]:
        """The reference's outputs by name, for each of the inputs."""
        return self._outputs

    def deviation(
        self,
        model: ir.Model,
        *,
        most_sets: int | None = None,
        watch: Callable[[int, Mapping[str, Any]], None] | None = None,
    ) -> Deviation:
        """Runs another model on the same inputs.

        Args:
            model: The other one.
            most_sets: Use only as many input sets.
            watch: Told the index of the inputs and the outputs.

        Raises:
            CannotRunError: It does not run.
        """
        session = open_session(model, spinning=False, providers=self._providers)
        worst: dict[str, Difference] = {}
        typical: dict[str, float] = {}
        pairs = list(zip(self.sets, self._outputs, strict=True))[:most_sets]
        for index, (one, expected) in enumerate(pairs):
            outputs = session.run(one.feeds)
            if watch is not None:
                watch(index, outputs)
            for name, result in outputs.items():
                if name not in expected:
                    raise CannotRunError(f"output {name!r} is new")
                found = compare(expected[name], result)
                worst[name] = found.merge(worst.get(name, found))
                typical[name] = typical.get(name, 0.0) + found.rms / len(pairs)
        if not worst:
            return Deviation(0.0, 0.0, 1.0, "")
        name = max(worst, key=lambda n: (bool(worst[n].broken), worst[n].relative))
        return Deviation(
            worst[name].relative,
            max(found.rms for found in worst.values()),
            min(found.cosine for found in worst.values()),
            name,
            next((f"output {n!r}: {f.broken}" for n, f in worst.items() if f.broken), ""),
            max(typical.values()),
        )
