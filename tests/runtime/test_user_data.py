from pathlib import Path

import numpy as np
import onnx.parser
import onnx_ir as ir
import pytest

from onnxopt.core.errors import InvalidInputError
from onnxopt.runtime.inputs.plan import plan_inputs
from onnxopt.runtime.inputs.user_data import read_user_data
from onnxopt.runtime.inputs.user_functions import names_function

MODEL = ir.from_proto(
    onnx.parser.parse_model(
        '<ir_version: 9, opset_import: ["": 18]>\n'
        "g (float[n, 2] x, int64[n] k) => (float[n, 2] y) { y = Identity(x) }"
    )
)


def feeds(data: object) -> list[dict]:
    plan = plan_inputs(MODEL, data)
    return [dict(plan.build(plan.wanted(run), run).feeds) for run in range(plan.sets)]


def arrays(number: int) -> dict[str, np.ndarray]:
    return {"x": np.full((3, 2), number, np.float32), "k": np.full(3, number)}


def values(found: list[dict]) -> list[float]:
    return [float(one["x"][0, 0]) for one in found]


def test_a_folder_of_archives_is_a_set_each_in_natural_order(tmp_path: Path):
    for number in (10, 9, 1):
        np.savez(tmp_path / f"set{number}.npz", **arrays(number))
    assert values(feeds(tmp_path)) == [1, 9, 10]


def test_a_folder_of_arrays_named_after_inputs_is_one_set(tmp_path: Path):
    for name, array in arrays(4).items():
        np.save(tmp_path / f"{name}.npy", array)
    assert values(feeds(str(tmp_path))) == [4]


def test_numbered_arrays_are_sets(tmp_path: Path):
    for number in (0, 1, 2):
        for name, array in arrays(number).items():
            np.save(tmp_path / f"{name}_{number}.npy", array)
    assert values(feeds(tmp_path)) == [0, 1, 2]


def test_folders_of_folders_are_sets(tmp_path: Path):
    for number in (5, 6):
        (tmp_path / str(number)).mkdir()
        for name, array in arrays(number).items():
            np.save(tmp_path / str(number) / f"{name}.npy", array)
    assert values(feeds(tmp_path)) == [5, 6]


def test_functions_yield_or_return_sets(tmp_path: Path):
    assert values(feeds(lambda: (arrays(n) for n in (1, 2)))) == [1, 2]
    assert values(feeds(lambda: arrays(3))) == [3]
    code = "import numpy as np\ndef f():\n    yield {'x': np.ones((3, 2)) * 8}\n"
    (tmp_path / "source.py").write_text(code)
    found = feeds(f"{tmp_path}/source.py:f")
    assert values(found) == [8]
    assert found[0]["x"].dtype == np.float32  # float64 is what NumPy makes of everything
    assert found[0]["k"].shape == (3,)  # synthesized to match


def test_much_data_goes_to_disk(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("onnxopt.runtime.inputs.user_functions._MOST_BYTES_IN_MEMORY", 100)
    assert values(feeds(lambda: (arrays(n) for n in range(5)))) == [0, 1, 2, 3, 4]


def test_a_path_is_not_taken_for_a_function():
    assert names_function("package.module:function")
    assert names_function("/some/where/file.py:function")
    assert not names_function("data/inputs.npz")
    assert not names_function("C:data")


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda: 1 / 0, "failed: ZeroDivisionError"),
        (lambda: [1], "dicts of arrays"),
        (lambda: [], "yields no inputs"),
        (lambda: {"z": np.ones(1)}, "no input is named 'z'"),
        (lambda: {"x": [[1.0], [1.0, 2.0]]}, "no array"),
    ],
)
def test_functions_that_give_something_else_are_named(function, message: str):
    with pytest.raises(InvalidInputError, match=message) as caught:
        feeds(function)
    assert "\n" not in str(caught.value)


class _UnusualError(Exception):
    """No error class of Python's own."""


@pytest.mark.parametrize("error", [_UnusualError("mine"), StopIteration(), SystemExit(3)])
def test_whatever_a_function_raises_is_one_line(error):
    def raising():
        raise error

    def late():
        yield {"x": np.ones((2, 4), np.float32)}
        raise _UnusualError("mine")

    x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(["N", 4]))
    for function in (raising, late):
        with pytest.raises(InvalidInputError, match=f"{function.__name__}: failed: "):
            read_user_data(function, {"x": x})


def test_a_file_without_arrays_is_refused(tmp_path):
    np.savez(tmp_path / "empty.npz")
    x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(["N", 4]))
    with pytest.raises(InvalidInputError, match="holds no arrays; the inputs are x"):
        read_user_data(tmp_path / "empty.npz", {"x": x})
