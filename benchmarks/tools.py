"""The tools that are compared, each as a shell command and as a function of one process."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import shutil
import sys
import sysconfig
from pathlib import Path

_ONNXSCRIPT = """
import sys, onnx_ir as ir, onnxscript.optimizer
model = ir.load(sys.argv[1])
onnxscript.optimizer.optimize(model)
ir.save(model, sys.argv[2])
"""

# Load, optimize, save, timed without imports; prints the seconds.
_IN_PROCESS = {
    "onnxopt": """
import onnxopt, onnxopt.presets, onnxopt.graph.loading, onnxopt.graph.saving
from onnxopt import optimize
def work(source, target): optimize(source, target, guard="off")
""",
    "onnxsim": """
import onnx, onnxsim
def work(source, target):
    model, ok = onnxsim.simplify(onnx.load(source))
    onnx.save(model, target)
""",
    "onnxslim": """
import onnx, onnxslim
def work(source, target): onnxslim.slim(source, target)
""",
    "onnxscript": """
import onnx_ir as ir, onnxscript.optimizer
def work(source, target):
    model = ir.load(source)
    onnxscript.optimizer.optimize(model)
    ir.save(model, target)
""",
}

_TIMER = """
import sys, time
start = time.perf_counter()
work(sys.argv[1], sys.argv[2])
print("SECONDS", time.perf_counter() - start)
"""


@dataclasses.dataclass(frozen=True)
class Tool:
    """One way to optimize a model.

    Attributes:
        name: Column heading.
        package: Its distribution, for the version.
        command: The command line as a user would type it; IN and OUT are replaced.
        in_process: Python source that times the work alone; "" if it makes no sense.
    """

    name: str
    package: str
    command: tuple[str, ...]
    in_process: str = ""

    def shell(self, source: Path, target: Path) -> list[str]:
        """The command for these files."""
        places = {"IN": str(source), "OUT": str(target)}
        return [places.get(part, part) for part in self.command]

    def timed(self, source: Path, target: Path) -> list[str]:
        """A command that prints the seconds of load, optimize and save, imports left out."""
        return [sys.executable, "-c", self.in_process + _TIMER, str(source), str(target)]

    @property
    def version(self) -> str:
        """The installed version, or "" if it is not installed."""
        try:
            return importlib.metadata.version(self.package)
        except importlib.metadata.PackageNotFoundError:
            return ""


def _script(name: str) -> str:
    return shutil.which(name, path=sysconfig.get_path("scripts")) or name


TOOLS = (
    Tool(
        "onnxopt",
        "onnxopt",
        (_script("onnxopt"), "optimize", "IN", "-o", "OUT", "-q"),
    ),
    Tool(
        "onnxopt --guard off",
        "onnxopt",
        (_script("onnxopt"), "optimize", "IN", "-o", "OUT", "-q", "--guard", "off"),
        _IN_PROCESS["onnxopt"],
    ),
    Tool("onnxsim", "onnxsim", (_script("onnxsim"), "IN", "OUT"), _IN_PROCESS["onnxsim"]),
    Tool("onnxslim", "onnxslim", (_script("onnxslim"), "IN", "OUT"), _IN_PROCESS["onnxslim"]),
    Tool(
        "onnxscript",
        "onnxscript",
        (sys.executable, "-c", _ONNXSCRIPT, "IN", "OUT"),
        _IN_PROCESS["onnxscript"],
    ),
)
