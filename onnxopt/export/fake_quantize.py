"""Modules in quantization-aware training, and with weights that torchao quantized."""

from __future__ import annotations

import warnings
from typing import Any

from onnxopt.core.errors import InvalidInputError
from onnxopt.runtime.inputs.user_functions import user_code


def converted(source: str, module: Any) -> tuple[Any, list[str]]:
    """A module without fake quantization, and what the user should know about it.

    Modules of torch.ao that are in quantization-aware training compute statistics on the side, in
    operators that no exporter knows. What is deployed of them is the converted module.

    Raises:
        InvalidInputError: It cannot be converted.
    """
    from torch.utils._python_dispatch import is_traceable_wrapper_subclass

    notes = []
    if _fake_quantizers(module):
        module = _convert(source, module)
        notes.append("its FakeQuantize modules were converted with torch.ao.quantization")
    quantized = [
        name for name, weight in module.named_parameters() if is_traceable_wrapper_subclass(weight)
    ]
    if quantized:
        kind = type(dict(module.named_parameters())[quantized[0]]).__name__
        notes.append(
            f"{len(quantized)} weights are torchao's {kind}: what its kernels compute is written "
            "out in many operators; `onnxopt quantize` makes faster models of the float module"
        )
    return module, notes


def _convert(source: str, module: Any) -> Any:
    import torch

    is_traced = isinstance(module, torch.fx.GraphModule)
    name = "torch.ao.quantization." + ("quantize_fx.convert_fx" if is_traced else "convert")
    if not is_traced and not any(hasattr(one, "qconfig") for one in module.modules()):
        raise InvalidInputError(
            f"{source}: it has FakeQuantize modules, but was not made by prepare_qat: export what "
            "is deployed of it, a module without them"
        )
    with (
        user_code(f"{source}: it has FakeQuantize modules, and {name} fails"),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")  # that torch.ao.quantization is deprecated
        if is_traced:
            from torch.ao.quantization.quantize_fx import convert_fx

            result = convert_fx(module)
        else:
            result = torch.ao.quantization.convert(module)
    left = _fake_quantizers(result)
    if left:
        raise InvalidInputError(
            f"{source}: {name} leaves FakeQuantize modules in it ({left[0]}): export what is "
            "deployed of it, a module without them"
        )
    return result


def _fake_quantizers(module: Any) -> list[str]:
    """Names of the modules that quantize in training."""
    from torch.ao.quantization.fake_quantize import FakeQuantizeBase

    return [name for name, one in module.named_modules() if isinstance(one, FakeQuantizeBase)]
