"""onnxsim as a pass, for pipelines whose owners rely on it. Off by default.

    model  ->  onnxsim.simplify(model)

It runs in a child process with a time limit, because it is native code that can crash or hang on
models that others read well. A crash, a time-out, an error, a result that does not load or one that
changes the names of inputs or outputs is a refusal with its reason, and the model stays as it was.
What comes back is checked like the result of any other pass.

Weights travel through a temporary folder; the child sees no other file. Subgraphs and functions are
whatever onnxsim makes of them.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import ClassVar

import onnx_ir as ir

from onnxopt.core.errors import MissingDependencyError, OnnxOptError
from onnxopt.core.passes import Pass, PassResult, Refusal
from onnxopt.core.walking import all_graphs
from onnxopt.graph.loading import load_model
from onnxopt.graph.saving import save_model

_CHILD = """
import sys, onnx, onnxsim
model, ok = onnxsim.simplify(onnx.load(sys.argv[1]))
if not ok:
    sys.exit("onnxsim's own check found that the result differs")
onnx.save(model, sys.argv[2], save_as_external_data=model.ByteSize() > 2**31 - 2**20)
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SimplifyWithOnnxsim(Pass):
    """Runs onnxsim in a child process (extra `onnxsim`).

    Attributes:
        timeout: Seconds after which the child is killed and the model left as it was.
    """

    name: ClassVar[str] = "onnxsim"

    timeout: int = 600

    def call(self, model: ir.Model) -> PassResult:
        """Replaces the graph of `model` by what onnxsim makes of it.

        Raises:
            MissingDependencyError: onnxsim is not installed.
        """
        if importlib.util.find_spec("onnxsim") is None:
            raise MissingDependencyError(
                "the pass onnxsim needs the package of that name: pip install 'onnxopt[onnxsim]'"
            )
        with tempfile.TemporaryDirectory(prefix="onnxopt-onnxsim-") as folder:
            source, target = Path(folder, "in.onnx"), Path(folder, "out.onnx")
            save_model(model, source)
            reason = self._run(source, target)
            if reason:
                return PassResult(model, refusals=[Refusal(self.name, "", reason)])
            try:
                simplified = load_model(target)
            except OnnxOptError as error:
                refusal = Refusal(self.name, "", f"its result cannot be read: {error}")
                return PassResult(model, refusals=[refusal])
            return self._adopt(model, simplified)

    def _run(self, source: Path, target: Path) -> str:
        """Runs the child; returns why there is no result, or ""."""
        command = [sys.executable, "-c", _CHILD, str(source), str(target)]
        try:
            child = subprocess.run(
                command,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=self.timeout,
                cwd=source.parent,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return f"it took more than {self.timeout} s and was stopped"
        if child.returncode < 0:
            return f"it crashed (signal {-child.returncode})"
        if child.returncode or not target.exists():
            lines = [line for line in child.stderr.splitlines() if line.strip()]
            return f"it failed: {lines[-1].strip() if lines else 'no message'}"
        return ""

    def _adopt(self, model: ir.Model, simplified: ir.Model) -> PassResult:
        for kind in ("inputs", "outputs"):
            before, after = (
                [value.name for value in getattr(m.graph, kind) if not value.is_initializer()]
                for m in (model, simplified)
            )
            if before != after:
                reason = f"it changed the {kind}: {before} became {after}"
                return PassResult(model, refusals=[Refusal(self.name, "", reason)])
        if _operators(model) == _operators(simplified):
            return PassResult(model)
        for kind in ("inputs", "outputs"):
            # The interface is a contract: declared types and symbolic dimensions stay.
            old = {value.name: value for value in getattr(model.graph, kind)}
            for value in getattr(simplified.graph, kind):
                if value.name in old:
                    value.type, value.shape = old[value.name].type, old[value.name].shape
        model.graph = simplified.graph
        model.functions.clear()
        model.functions.update(simplified.functions)
        model.ir_version = simplified.ir_version
        return PassResult(model, Counter({"simplified": 1}))


def _operators(model: ir.Model) -> Counter[tuple[str, str]]:
    return Counter((node.domain, node.op_type) for graph in all_graphs(model) for node in graph)
