"""The parity check of one `optimize` run, in a process of its own where that is possible."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import onnx_ir as ir

from onnxopt.runtime.child import Child, ChildEndedError, all_memory, fair_memory
from onnxopt.runtime.inputs.plan import InputPlan
from onnxopt.runtime.parity.check import check_parity
from onnxopt.runtime.parity.result import ParityResult
from onnxopt.runtime.parity.verify_saved import verify_saved

Check = Callable[[Path, Path, InputPlan], ParityResult]


class CrashedError(Exception):
    """ONNX Runtime crashed on the optimized model: no search in this process would survive it."""


class Prover:
    """Compares what is made of a model with the model. Close it, or use `contextlib.closing`.

    Args:
        original: The model, which stays as it is.
        plan: Inputs to run it on.
        isolated: Run files in a child process, so that a crash of ONNX Runtime is a finding. It
            starts at once, since it takes a second to import what it needs.
        check: How a saved file is compared, in the child.
        seconds: A check in the child that takes longer is stopped.
        weights: Bytes of the model's weights, which bound the memory of the child.
    """

    def __init__(
        self,
        original: Path | ir.Model,
        plan: InputPlan,
        *,
        isolated: bool = False,
        check: Check | None = None,
        seconds: float | None = None,
        weights: int = 0,
    ) -> None:
        self._original = original
        self._weights = weights
        self._plan = plan
        self._check: Check = check or verify_saved
        self._seconds = seconds
        self._child: Child | None = None
        if isolated and isinstance(original, Path) and _can_travel(plan):
            self._child = self._start()

    def close(self) -> None:
        """Ends the other process."""
        if self._child is not None:
            self._child.close()

    @property
    def isolated(self) -> bool:
        """True if files are run in another process."""
        return self._child is not None

    def prove(self, result: ir.Model | Path) -> ParityResult:
        """Compares a result, in memory or saved, with the original.

        Raises:
            CrashedError: ONNX Runtime crashed on the result, but not on the original.
            OnnxOptError: The result cannot be judged.
        """
        if isinstance(result, ir.Model):
            return check_parity(self._original, result, input_sets=self._plan)
        if self._child is None or not isinstance(self._original, Path):
            return verify_saved(result, self._original, self._plan)
        try:
            return self._child.call(self._check, result, self._original, self._plan)
        except ChildEndedError as error:
            if not error.crashed:
                raise
            # Whatever comes next finds a process that lives.
            self._child.close()
            self._child = self._start()
            again = self._crash_of_original()
            if again:
                return ParityResult("not-run", (f"ONNX Runtime {again} on the original",))
            raise CrashedError(f"ONNX Runtime {error} on the optimized model") from error

    def _start(self) -> Child:
        return Child(
            preload=(verify_saved.__module__, "onnxruntime"),
            seconds=self._seconds,
            # The user's own data may be of any size.
            memory=all_memory() if self._plan.data else fair_memory(self._weights),
        )

    def _crash_of_original(self) -> str:
        """How the original ends the process that runs it; empty if it does not."""
        assert isinstance(self._original, Path)
        with closing(self._start()) as child:
            try:
                child.call(self._check, self._original, self._original, self._plan)
            except ChildEndedError as error:
                return str(error)
        return ""


def _can_travel(plan: Any) -> bool:
    """False for inputs from a function that only this process knows."""
    try:
        pickle.dumps(plan)
    except (pickle.PicklingError, AttributeError, TypeError):
        return False
    return True
