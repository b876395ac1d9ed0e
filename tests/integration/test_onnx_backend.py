"""The onnx package's own backend test cases go through `optimize` and keep their recorded outputs.

Cases that ONNX Runtime does not pass on the original model are optimized all the same, which must
not fail; there is nothing to compare their outputs with.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx import numpy_helper
from onnx.backend.test.case.test_case import TestCase
from onnx.backend.test.loader import load_model_tests

import onnxopt

DataSet = tuple[list[Any], list[Any]]

# Their outputs are drawn at random: no two runs agree, with or without onnxopt.
RANDOM = ("bernoulli", "training_dropout")


def collect() -> list[TestCase]:
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        cases = [
            case
            for kind in ("node", "simple", "pytorch-converted", "pytorch-operator")
            for case in load_model_tests(kind=kind)
        ]
    return sorted(cases, key=lambda case: (case.kind, case.name))


CASES = collect()


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.kind}-{case.name}")
def test_recorded_outputs_hold_when_case_is_optimized(case: TestCase) -> None:
    proto, data_sets = read_case(case)
    optimized = onnxopt.optimize(ir.from_proto(proto), guard="off").model
    compared = ir.to_proto(optimized).SerializeToString()
    for inputs, expected in data_sets:
        feeds = name_inputs(proto, inputs)
        if reproduces(proto.SerializeToString(), feeds, expected, case):
            outputs = run(compared, feeds)
            assert matches(outputs, expected, case), "passes before optimize, fails after"


def test_most_cases_are_compared_when_the_suite_runs() -> None:
    """Guards the test above against comparing nothing: most of a sample must be runnable."""
    sample = CASES[:: len(CASES) // 60]
    passed = 0
    for case in sample:
        proto, data_sets = read_case(case)
        if not data_sets:
            continue
        inputs, expected = data_sets[0]
        feeds = name_inputs(proto, inputs)
        passed += reproduces(proto.SerializeToString(), feeds, expected, case)
    assert len(CASES) > 1900
    assert passed >= 0.7 * len(sample), (passed, len(sample))


def read_case(case: TestCase) -> tuple[onnx.ModelProto, list[DataSet]]:
    """The model and its data sets; those with random outputs have none."""
    if case.model is not None:
        sets = [(list(inputs), list(outputs)) for inputs, outputs in case.data_sets]
        return case.model, [] if any(word in case.name for word in RANDOM) else sets
    folder = Path(case.model_dir)
    proto = onnx.load(folder / "model.onnx")
    initializers = {tensor.name for tensor in proto.graph.initializer}
    fed = [value for value in proto.graph.input if value.name not in initializers]
    sets = [
        (read_values(data, "input", fed), read_values(data, "output", proto.graph.output))
        for data in sorted(folder.glob("test_data_set_*"))
    ]
    return proto, sets


def read_values(folder: Path, kind: str, values: Sequence[onnx.ValueInfoProto]) -> list[Any]:
    return [
        read_value(folder / f"{kind}_{index}.pb", value.type) for index, value in enumerate(values)
    ]


def read_value(path: Path, kind: onnx.TypeProto) -> Any:
    data = path.read_bytes()
    if kind.HasField("sequence_type"):
        return numpy_helper.to_list(onnx.SequenceProto.FromString(data))
    return numpy_helper.to_array(onnx.TensorProto.FromString(data))


def name_inputs(proto: onnx.ModelProto, inputs: Sequence[Any]) -> dict[str, Any]:
    initializers = {tensor.name for tensor in proto.graph.initializer}
    names = [value.name for value in proto.graph.input if value.name not in initializers]
    return {
        name: array(value) for name, value in zip(names, inputs, strict=False) if value is not None
    }


def array(value: Any) -> Any:
    """Cases hold arrays, lists of arrays, scalars and, for narrow types, tensor protos."""
    if isinstance(value, onnx.TensorProto):
        return numpy_helper.to_array(value)
    return value if isinstance(value, list) else np.asarray(value)


def run(model: bytes, feeds: dict[str, Any]) -> list[Any]:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    outputs: list[Any] = session.run(None, feeds)
    return outputs


# What ONNX Runtime raises for an operator, type or value that it does not support.
ORT_ERRORS = (RuntimeError, ValueError, TypeError, NotImplementedError)


def ort_failures() -> tuple[type[BaseException], ...]:
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    own = [v for v in vars(state).values() if isinstance(v, type) and issubclass(v, Exception)]
    return (*ORT_ERRORS, *own)


def reproduces(
    model: bytes, feeds: dict[str, Any], expected: Sequence[Any], case: TestCase
) -> bool:
    try:
        return matches(run(model, feeds), expected, case)
    except ort_failures():
        return False


def matches(outputs: Sequence[Any], expected: Sequence[Any], case: TestCase) -> bool:
    return len(outputs) == len(expected) and all(
        agree(output, wanted, case) for output, wanted in zip(outputs, expected, strict=True)
    )


def agree(output: Any, expected: Any, case: TestCase) -> bool:
    if isinstance(expected, onnx.TensorProto):
        expected = numpy_helper.to_array(expected)
    if expected is None or isinstance(expected, list):
        if expected is None or output is None:
            return output is expected
        return len(output) == len(expected) and all(
            agree(o, e, case) for o, e in zip(output, expected, strict=True)
        )
    output, expected = np.asarray(output), np.asarray(expected)
    if output.shape != expected.shape:
        return False
    if expected.dtype.kind in "OUS":
        return bool(np.array_equal(output.astype(str), expected.astype(str)))
    if output.dtype.itemsize != expected.dtype.itemsize:
        return False
    if expected.dtype.kind == "V":  # bfloat16, float8: compared bit by bit
        return bool(np.array_equal(output.view(np.uint8), expected.view(np.uint8)))
    return bool(
        np.allclose(output, expected, rtol=case.rtol, atol=max(case.atol, 1e-5), equal_nan=True)
    )
