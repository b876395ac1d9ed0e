"""Execution providers by their short names, and whether the installed ONNX Runtime has them."""

from __future__ import annotations

from onnxopt.core.errors import InvalidInputError
from onnxopt.runtime.library import load_runtime
from onnxopt.runtime.session import CPU, Session

PROVIDERS: dict[str, tuple[str, ...]] = {
    "cpu": CPU,
    # What CUDA has no kernel for runs on the CPU.
    "cuda": ("CUDAExecutionProvider", *CPU),
}


def find_providers(name: str) -> tuple[str, ...]:
    """The providers to open sessions with.

    Args:
        name: "cpu" or "cuda".

    Raises:
        InvalidInputError: There is no such provider, or the installed ONNX Runtime lacks it.
        MissingDependencyError: ONNX Runtime is not installed.
    """
    if name not in PROVIDERS:
        raise InvalidInputError(f"provider is {' or '.join(PROVIDERS)}, not {name!r}")
    wanted = PROVIDERS[name]
    available = load_runtime().get_available_providers()
    if wanted[0] not in available:
        raise InvalidInputError(
            f"the installed ONNX Runtime has no {wanted[0]}; "
            "use onnxopt[gpu] instead of onnxopt[cpu], or --provider cpu"
        )
    return wanted


def check_provider(session: Session, wanted: tuple[str, ...]) -> None:
    """Makes sure that a session runs where it should.

    ONNX Runtime falls back to the CPU in silence where a driver or a library is missing.

    Raises:
        InvalidInputError: It runs elsewhere.
    """
    if wanted[0] not in session.native.get_providers():
        raise InvalidInputError(
            f"{wanted[0]} does not start here: a GPU, its driver and the CUDA libraries are needed"
        )
