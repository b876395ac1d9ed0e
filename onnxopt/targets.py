"""What a model is optimized for: execution provider, threads and instruction set.

As text: `cpu`, `cuda`, `cpu:threads=4,isa=avx2`.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib.metadata
from pathlib import Path
from typing import Literal, get_args

from onnxopt.core.errors import InvalidInputError
from onnxopt.instruction_sets import Isa, detect_isa

Provider = Literal["cpu", "cuda"]

_PROVIDERS: tuple[Provider, ...] = get_args(Provider)
_ISAS: tuple[Isa, ...] = get_args(Isa)
# Where NVIDIA's driver shows itself: on Linux, and on Linux inside Windows.
_CUDA_DEVICES = ("/dev/nvidiactl", "/dev/dxg")


@dataclasses.dataclass(frozen=True)
class Target:
    """Where a model will run.

    Attributes:
        provider: The execution provider of ONNX Runtime.
        threads: Threads inside an operator; None for ONNX Runtime's choice, the physical cores.
        isa: The best instruction set of the CPU; None for that of this machine.
    """

    provider: Provider = "cpu"
    threads: int | None = None
    isa: Isa | None = None

    @property
    def execution_providers(self) -> tuple[str, ...]:
        """ONNX Runtime's names of the providers, in order of preference."""
        return ("CUDAExecutionProvider",) * (self.provider == "cuda") + ("CPUExecutionProvider",)

    @property
    def instruction_set(self) -> Isa:
        """The given instruction set, or this machine's."""
        return self.isa or detect_isa()

    @property
    def eight_bit_products_saturate(self) -> bool:
        """True if its 8-bit kernels add two products in 16 bits, so that weights need 7 bits."""
        return self.instruction_set in ("generic", "avx2", "avx512")

    @property
    def is_x86(self) -> bool:
        """True unless the CPU is an Arm one."""
        return self.instruction_set not in ("neon", "dotprod", "i8mm")

    def __str__(self) -> str:
        """The target as `--target` takes it."""
        options = {"threads": self.threads, "isa": self.isa}
        text = ",".join(f"{name}={value}" for name, value in options.items() if value is not None)
        return f"{self.provider}:{text}" if text else self.provider


def parse_target(text: str) -> Target:
    """Reads `cpu|cuda[:threads=N,isa=NAME]`.

    Raises:
        InvalidInputError: It is not of that form; the message says what there is.
    """
    provider, _, options = text.strip().lower().partition(":")
    if provider not in _PROVIDERS:
        raise InvalidInputError(
            f"target {text!r}: write {' or '.join(_PROVIDERS)}, with options as in "
            "cpu:threads=4,isa=avx2"
        )
    target = Target(_PROVIDERS[_PROVIDERS.index(provider)])
    for option in filter(None, options.split(",")):
        name, _, value = (part.strip() for part in option.partition("="))
        if name == "threads":
            if not value.isdecimal() or int(value) < 1:
                raise InvalidInputError(
                    f"target {text!r}: threads is a whole number from 1 on, not {value!r}"
                )
            target = dataclasses.replace(target, threads=int(value))
        elif name == "isa":
            target = dataclasses.replace(target, isa=_isa(text, value))
        else:
            raise InvalidInputError(f"target {text!r}: the options are threads and isa")
    return target


def as_target(target: Target | str | None) -> Target:
    """The target itself, the one that a text names, or by default the one that is found here."""
    if target is None:
        return detect_target()
    return parse_target(target) if isinstance(target, str) else target


def detect_target() -> Target:
    """CUDA if the installed ONNX Runtime is built for it and there is a device, else the CPU.

    Reads the metadata of the installed packages; ONNX Runtime itself is not imported.
    """
    try:
        importlib.metadata.distribution("onnxruntime-gpu")
    except importlib.metadata.PackageNotFoundError:
        return Target("cpu")
    # No package tells on Windows whether there is a device; the build for it is taken at its word.
    if Path("/dev").exists() and not any(Path(device).exists() for device in _CUDA_DEVICES):
        return Target("cpu")
    return Target("cuda")


def _isa(text: str, value: str) -> Isa:
    if value in _ISAS:
        return _ISAS[_ISAS.index(value)]
    near = difflib.get_close_matches(value, _ISAS, 1)
    hint = f"; did you mean {near[0]}?" if near else ""
    raise InvalidInputError(f"target {text!r}: isa is one of {', '.join(_ISAS)}{hint}")
