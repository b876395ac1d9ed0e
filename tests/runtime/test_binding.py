import numpy as np
import pytest

from onnxopt.core.errors import InvalidInputError
from onnxopt.runtime.binding import bound_call, feeds_for, run_call
from onnxopt.runtime.providers import check_provider
from onnxopt.runtime.session import Declared, open_session

MODEL = "models/digits_cnn.onnx"
IMAGE = {"image": np.ones((2, 1, 8, 8), np.float32)}


def test_a_bound_call_runs_the_model_on_its_device():
    session = open_session(MODEL)
    expected = session.run(IMAGE)["logits"]
    binding = []

    class Native:
        """Remembers the binding, to look at the results."""

        def io_binding(self):
            binding.append(session.native.io_binding())
            return binding[0]

        def get_outputs(self):
            return session.native.get_outputs()

        def run_with_iobinding(self, bound):
            session.native.run_with_iobinding(bound)

    bound_call(Native(), IMAGE, "cpu")()
    np.testing.assert_array_equal(binding[0].copy_outputs_to_cpu()[0], expected)


def test_inputs_and_outputs_are_bound_to_the_gpu_and_results_waited_for(monkeypatch):
    """No GPU is needed: what ONNX Runtime is asked for is recorded."""
    asked = []

    class OrtValue:
        @staticmethod
        def ortvalue_from_numpy(array, device, index):
            return array.dtype.kind, device, index

    class Binding:
        def bind_ortvalue_input(self, name, value):
            asked.append(("input", name, value))

        def bind_output(self, name, device):
            asked.append(("output", name, device))

        def synchronize_outputs(self):
            asked.append("waited")

    class Native:
        def io_binding(self):
            return Binding()

        def get_outputs(self):
            return [Declared("y", "tensor(float)", ())]

        def run_with_iobinding(self, binding):
            asked.append("ran")

    runtime = type("Runtime", (), {"OrtValue": OrtValue})
    monkeypatch.setattr("onnxopt.runtime.binding.load_runtime", lambda: runtime)
    feeds = {"x": np.zeros(2, np.float32), "words": np.array(["a"], dtype=object)}
    call = bound_call(Native(), feeds, "cuda")
    call()
    assert asked == [
        ("input", "x", ("f", "cuda", 0)),
        ("input", "words", ("O", "cpu", 0)),
        ("output", "y", "cuda"),
        "ran",
        "waited",
    ]


def test_floats_are_rounded_to_the_type_that_a_model_declares():
    session = open_session(MODEL)
    feeds = {"image": IMAGE["image"].astype(np.float64)}
    chosen = feeds_for(session, feeds, "other.onnx")
    assert chosen["image"].dtype == np.float32
    run_call(session, chosen)()
    with pytest.raises(InvalidInputError, match=r"other\.onnx has an input 'image'"):
        feeds_for(session, {"x": IMAGE["image"]}, "other.onnx")


def test_a_silent_fallback_to_the_cpu_is_an_error():
    with pytest.raises(InvalidInputError, match="does not start here"):
        check_provider(open_session(MODEL), ("CUDAExecutionProvider", "CPUExecutionProvider"))
