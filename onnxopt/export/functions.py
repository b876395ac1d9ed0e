"""A function of the user's that returns a module and example inputs. Naming it runs it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from onnxopt.core.errors import InvalidInputError
from onnxopt.export.fake_quantize import converted
from onnxopt.export.filling import like_example
from onnxopt.export.parts import Case, Input, Part, Tensor
from onnxopt.export.sources import Loaded
from onnxopt.runtime.inputs.user_functions import find_function, user_code


def load_function(source: str) -> Loaded:
    """Calls the function.

    It returns `(module, inputs)` or `(module, inputs, dynamic_axes)`. Inputs are a tensor, a tuple
    of them, or a dict by the names of `forward`'s parameters; `dynamic_axes` is a dict of input
    name to a dict of axis to name. By default the first axis is the batch, if all inputs agree.

    Raises:
        InvalidInputError: It fails or returns something else.
    """
    function = find_function(source)
    with user_code(f"{source}: failed"):
        made = function()
    part, notes = module_part(source, made)
    return Loaded([part], notes=tuple(notes))


def module_part(source: str, made: Any) -> tuple[Part, list[str]]:
    """The part of what a function returned, and what the user should know about it.

    Raises:
        InvalidInputError: It is not a module with example inputs.
    """
    import torch

    usage = (
        f"{source}: has to return (module, example inputs) or (module, example inputs, dynamic "
        "axes)"
    )
    if not isinstance(made, tuple) or len(made) not in (2, 3):
        raise InvalidInputError(f"{usage}, not {type(made).__name__}")
    module, given = made[0], made[1]
    if not isinstance(module, torch.nn.Module):
        raise InvalidInputError(f"{usage}; the first one is a {type(module).__name__}")
    examples, by_name = _named(source, module, given)
    if not examples or not all(isinstance(one, torch.Tensor) for one in examples.values()):
        raise InvalidInputError(f"{usage}; inputs are tensors")
    axes = _axes(source, examples, made[2] if len(made) == 3 else None)
    sizes = _sizes(source, examples, axes)
    inputs = tuple(
        Input(
            name,
            tuple(axes.get(name, {}).get(axis, size) for axis, size in enumerate(one.shape)),
            like_example(one),
        )
        for name, one in examples.items()
    )
    _evaluating(module)
    module, notes = converted(source, module)
    return wrapped(module, inputs, by_name, sizes, guessed=len(made) == 2), notes


def _evaluating(module: Any) -> None:
    """Puts a module into evaluation mode."""
    try:
        module.eval()
    except NotImplementedError:
        # Modules of torch.export, as those that PT2E quantizes: what they do is in their graph.
        for one in module.modules():
            one.training = False


def wrapped(
    module: Any,
    inputs: tuple[Input, ...],
    by_name: bool,
    sizes: dict[str, int],
    *,
    guessed: bool,
    limits: Mapping[str, tuple[int, int]] | None = None,
) -> Part:
    """A part of any module.

    Args:
        module: The module.
        inputs: Its inputs.
        by_name: They are passed as keywords.
        sizes: Size of every symbol in the example.
        guessed: The symbols are a guess, which PyTorch may refute.
        limits: Smallest and largest size of a symbol, where there are any.
    """
    import torch

    from onnxopt.export.module_wrapper import Named

    names = tuple(one.name for one in inputs) if by_name else ()
    flat = Named(module, names)
    first = {symbol: max(size, 2) for symbol, size in sizes.items()}
    cases = [Case(first)]
    if sizes:
        cases.append(Case({s: size if size != first[s] else size + 1 for s, size in sizes.items()}))
        cases.append(Case({s: 1 if s == "batch" else size + 3 for s, size in sizes.items()}))
    limits = limits or {}
    cases = [
        Case({s: min(max(n, limits.get(s, (0, n))[0]), limits.get(s, (0, n))[1])
              for s, n in case.sizes.items()})
        for case in cases
    ]  # fmt: skip
    probe = Part("model", flat, inputs, (), (Case(sizes),))
    with torch.no_grad(), user_code("the module fails on its example inputs"):
        outputs = flat.names_of_outputs(*probe.make(probe.cases[0]).values())
    if not outputs:
        raise InvalidInputError("the module returns no tensor")
    fixable = (tuple(sizes),) if guessed and sizes else ()
    return Part("model", flat, inputs, outputs, tuple(cases), may_fix=fixable)


def _named(source: str, module: Any, given: Any) -> tuple[dict[str, Tensor], bool]:
    import torch

    if isinstance(given, Mapping):
        return {str(name): one for name, one in given.items()}, True
    tensors = (given,) if isinstance(given, torch.Tensor) else given
    if not isinstance(tensors, (tuple, list)):
        raise InvalidInputError(f"{source}: inputs are tensors, not {type(given).__name__}")
    names: list[str] = []
    for parameter in inspect.signature(module.forward).parameters.values():
        if parameter.kind is parameter.VAR_POSITIONAL:
            break
        names.append(parameter.name)
    names += [f"input_{index}" for index in range(len(names), len(tensors))]
    return dict(zip(names, tensors, strict=False)), False


def _axes(source: str, examples: dict[str, Tensor], given: Any) -> Mapping[str, Mapping[int, str]]:
    if given is None:
        batches = {one.shape[0] for one in examples.values() if one.ndim}
        if len(batches) != 1:
            return {}
        return {name: {0: "batch"} for name, one in examples.items() if one.ndim}
    if not isinstance(given, Mapping):
        raise InvalidInputError(
            f"{source}: dynamic axes are a dict of input name to {{axis: name}}"
        )
    for name, axes in given.items():
        if name not in examples:
            raise InvalidInputError(
                f"{source}: dynamic axes name {name!r}; the inputs are {', '.join(examples)}"
            )
        for axis, symbol in dict(axes).items():
            if not isinstance(symbol, str) or not 0 <= int(axis) < examples[name].ndim:
                raise InvalidInputError(
                    f"{source}: dynamic axes of {name!r}: {axis}: {symbol!r} does not fit its "
                    f"shape {list(examples[name].shape)}"
                )
    found: Mapping[str, Mapping[int, str]] = given
    return found


def _sizes(
    source: str, examples: dict[str, Tensor], axes: Mapping[str, Mapping[int, str]]
) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for name, symbols in axes.items():
        for axis, symbol in symbols.items():
            size = examples[name].shape[axis]
            if sizes.setdefault(symbol, size) != size:
                raise InvalidInputError(
                    f"{source}: {symbol!r} is {sizes[symbol]} in one example input and {size} in "
                    f"{name!r}"
                )
    return sizes
