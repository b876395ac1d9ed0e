"""ONNX Runtime sessions: opened from a file or from a model in memory, quiet, one-line failures."""

from __future__ import annotations

import ctypes
import dataclasses
import os
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import onnx_ir as ir

from onnxopt.core.errors import OnnxOptError
from onnxopt.graph.loading import load_model
from onnxopt.runtime.foreign_types import FOREIGN_TYPES, as_ort_value, from_ort_value
from onnxopt.runtime.library import CannotRunError, load_runtime, one_line, runtime_errors
from onnxopt.runtime.skeleton import serialize_skeleton

if TYPE_CHECKING:
    import onnxruntime as ort

Optimization = Literal["all", "extended", "basic", "disabled"]
Feeds = Mapping[str, Any]

CPU = ("CPUExecutionProvider",)
# The working directory belongs to the whole process.
_CHDIR = threading.Lock()
_FATAL_ONLY = 4


@dataclasses.dataclass(frozen=True)
class SavedFile(os.PathLike[str]):
    """A model file that has to load from anywhere: it is opened from another working directory.

    Attributes:
        path: Its absolute path.
    """

    path: str

    def __fspath__(self) -> str:
        return self.path


ModelSource = str | Path | SavedFile | bytes | ir.Model


@dataclasses.dataclass(frozen=True)
class Declared:
    """A graph input or output as the session declares it.

    Attributes:
        name: Its name.
        type: ONNX Runtime's text of the type, as "tensor(float)".
        shape: Sizes, symbol names, or None where nothing is known; empty for a scalar.
    """

    name: str
    type: str
    shape: tuple[int | str | None, ...]


class Session:
    """A model loaded in ONNX Runtime.

    Attributes:
        native: The `onnxruntime.InferenceSession`.
        inputs: Declared inputs that have to be fed.
        outputs: Declared outputs.
        needs_ort_values: True if some type is one that NumPy lacks, as bfloat16.
    """

    def __init__(self, native: ort.InferenceSession, weights: Sequence[Any] = ()) -> None:
        self.native = native
        self.inputs = _declared(native.get_inputs())
        self.outputs = _declared(native.get_outputs())
        self._weights = weights  # memory that ONNX Runtime may still read
        self.needs_ort_values = any(
            value.type in FOREIGN_TYPES for value in (*self.inputs, *self.outputs)
        )

    def run(self, feeds: Feeds) -> dict[str, Any]:
        """Runs the model once.

        Args:
            feeds: Input name to array; names that the model does not have are left out.

        Returns:
            Output name to array, or to a list or a dictionary for sequences and maps.

        Raises:
            CannotRunError: The run failed.
        """
        known = {value.name for value in self.inputs}
        known |= {value.name for value in self.native.get_overridable_initializers()}
        chosen = {name: array for name, array in feeds.items() if name in known}
        missing = [value.name for value in self.inputs if value.name not in chosen]
        if missing:
            raise CannotRunError(f"input {missing[0]!r} is not fed")
        try:
            results = (
                self._run_foreign(chosen)
                if self.needs_ort_values
                else self.native.run(None, chosen)
            )
        except runtime_errors() as error:
            raise CannotRunError(one_line(error)) from error
        return {value.name: result for value, result in zip(self.outputs, results, strict=True)}

    def _run_foreign(self, feeds: Feeds) -> list[Any]:
        values = {name: as_ort_value(array) for name, array in feeds.items()}
        return [from_ort_value(value) for value in self.native.run_with_ort_values(None, values)]


def open_session(
    model: ModelSource,
    *,
    optimization: Optimization = "all",
    threads: int | None = None,
    providers: Sequence[str] = CPU,
    provider_options: Mapping[str, str] | None = None,
    disabled_optimizers: Sequence[str] = (),
    execution: Literal["sequential", "parallel"] = "sequential",
    spinning: bool = True,
    reuse_memory: bool = True,
    prepacking: bool = True,
    arena: bool = True,
    config: Mapping[str, str] | None = None,
    profile_prefix: str | None = None,
    optimized_path: Path | None = None,
) -> Session:
    """Loads a model in ONNX Runtime.

    A model in memory is not written to disk: its structure is serialized without the large weights,
    which are handed over beside it, so that models beyond protobuf's 2 GB load as well.

    A file goes to ONNX Runtime by its path, except where that is not UTF-8.

    Args:
        model: Path, serialized bytes, or a model in memory, which is left as it is.
        optimization: How far ONNX Runtime may rewrite the graph on load.
        threads: Threads inside an operator; ONNX Runtime's choice by default.
        providers: Execution providers in order of preference.
        provider_options: Options of the first provider.
        disabled_optimizers: ONNX Runtime's own optimizers to leave out, by name.
        execution: "parallel" runs operators that do not wait for each other at the same time.
        spinning: Let idle threads spin, which is fast and keeps cores busy between runs.
        reuse_memory: Plan which values share memory by their declared shapes; a model that declares
            wrong ones runs only without.
        prepacking: Keep a second copy of weights in the layout that the kernels want.
        arena: Keep freed memory for the next run: fast, but all that any run took stays taken.
        config: More entries of ONNX Runtime's session configuration.
        profile_prefix: Record the time of every node; the file's name begins with this.
        optimized_path: Write the graph there as ONNX Runtime has rewritten it.

    Raises:
        MissingDependencyError: ONNX Runtime is not installed.
        CannotRunError: ONNX Runtime refuses the model.
    """
    runtime = load_runtime()
    options = runtime.SessionOptions()
    options.log_severity_level = _FATAL_ONLY
    options.graph_optimization_level = getattr(
        runtime.GraphOptimizationLevel, level_name(optimization)
    )
    if threads is not None:
        options.intra_op_num_threads = threads
    if not spinning:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if execution == "parallel":
        options.execution_mode = runtime.ExecutionMode.ORT_PARALLEL
    options.enable_mem_reuse = reuse_memory
    options.enable_cpu_mem_arena = arena
    if not prepacking:
        options.add_session_config_entry("session.disable_prepacking", "1")
    for key, value in (config or {}).items():
        options.add_session_config_entry(key, value)
    if profile_prefix is not None:
        options.enable_profiling = True
        options.profile_file_prefix = profile_prefix
    if optimized_path is not None:
        options.optimized_model_filepath = os.fspath(optimized_path)
    source: str | bytes
    weights: list[Any] = []
    model = _openable(model)
    _give_back_freed_memory()
    try:
        if isinstance(model, ir.Model):
            source, tensors = serialize_skeleton(model)
            if tensors:
                weights = [
                    runtime.OrtValue.ortvalue_from_numpy_with_onnx_type(array, dtype)
                    for array, dtype in tensors.values()
                ]
                options.add_external_initializers(list(tensors), weights)
        else:
            source = model if isinstance(model, bytes) else os.fspath(model)
        with _elsewhere(isinstance(model, SavedFile)):
            native = runtime.InferenceSession(
                source,
                options,
                providers=list(providers),
                provider_options=[dict(provider_options or {}), *({} for _ in providers[1:])],
                disabled_optimizers=list(disabled_optimizers),
            )
    except runtime_errors() as error:
        raise CannotRunError(one_line(error)) from error
    return Session(native, weights)


def level_name(optimization: Optimization) -> str:
    """ONNX Runtime's name of an optimization level."""
    return "ORT_DISABLE_ALL" if optimization == "disabled" else f"ORT_ENABLE_{optimization.upper()}"


def _openable(model: ModelSource) -> ModelSource:
    """The model; loaded if its path is one that ONNX Runtime cannot be given."""
    if isinstance(model, (bytes, ir.Model)):
        return model
    try:
        os.fspath(model).encode()
    except UnicodeEncodeError:
        try:
            return load_model(model)
        except OnnxOptError as error:
            raise CannotRunError(str(error)) from error
    return model


def _give_back_freed_memory() -> None:
    """Returns what an earlier session freed to the system: the C library may keep gigabytes."""
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):  # not on every C library
            ctypes.CDLL(None).malloc_trim(0)


@contextmanager
def _elsewhere(away: bool) -> Iterator[None]:
    """Another working directory, of the whole process, for the moment."""
    try:
        before = Path.cwd() if away else None
    except FileNotFoundError:
        before = None  # it was deleted: no relative path leads anywhere
    if before is None:
        yield
        return
    with _CHDIR:
        os.chdir(before.anchor)
        try:
            yield
        finally:
            os.chdir(before)


def _declared(values: Sequence[Any]) -> tuple[Declared, ...]:
    return tuple(Declared(value.name, value.type, tuple(value.shape or ())) for value in values)
