"""The user's data, whatever form it comes in, as input sets that can be read again and again.

Arrays, files, folders, images, text, functions and iterables; `open_data` tells them apart.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx_ir as ir

from onnxopt.calibration.images import IMAGE_SUFFIXES, ImagePreprocessing, parse_preprocessing
from onnxopt.calibration.rows import in_rows
from onnxopt.calibration.texts import TEXT_SUFFIXES, read_texts
from onnxopt.core.errors import InvalidInputError
from onnxopt.graph.values import dims
from onnxopt.runtime.inputs.plan import InputPlan, InputSet, plan_inputs
from onnxopt.runtime.inputs.trials import run_plan
from onnxopt.runtime.inputs.user_data import UserData
from onnxopt.runtime.inputs.user_file import read_file
from onnxopt.runtime.inputs.user_files import read_files
from onnxopt.runtime.inputs.user_functions import (
    USER_ERRORS,
    call_data_function,
    find_function,
    names_function,
)
from onnxopt.runtime.library import CannotRunError
from onnxopt.runtime.session import open_session

# Ranges from fewer samples miss values that occur later.
FEW_SAMPLES = 16


@dataclasses.dataclass(frozen=True)
class CalibrationData:
    """Inputs to calibrate and to measure with.

    Attributes:
        plan: Makes the input sets; inputs that the data lacks are synthesized.
        synthesized: True if there is no data of the user's.
        notes: What the user should know about it.
        positions: Which of the samples that were given each input set is.
        given: How many were given.
        model: What synthesized inputs have to fit, if their sizes are not fixed.
    """

    plan: InputPlan
    synthesized: bool
    notes: tuple[str, ...] = ()
    positions: Sequence[int] = ()
    given: int = 0
    model: ir.Model | None = None

    def __len__(self) -> int:
        return self.plan.sets if self._tried is None else len(self._tried)

    def __iter__(self) -> Iterator[InputSet]:
        for index in range(len(self)):
            yield self[index]

    def __getitem__(self, index: int) -> InputSet:
        if self._tried is not None:
            return self._tried[index]
        return self.plan.build(self.plan.wanted(index), index)

    @functools.cached_property
    def _tried(self) -> tuple[InputSet, ...] | None:
        """Synthesized inputs of sizes that the model runs at; None for all other data."""
        if self.model is None or not self.plan.free or self.plan.refusal:
            return None
        try:
            return run_plan(open_session(self.model, spinning=False), self.plan).sets
        except CannotRunError:  # whoever runs it on them says why
            return None

    def split(self, held_out: int, share: int = 4) -> tuple[range, range]:
        """Indexes of sets to calibrate with, and of others to measure with: the last ones.

        With fewer than four sets all of them serve for both.

        Args:
            held_out: The most that are kept to measure with.
            share: Part of all sets that these may be.
        """
        count = len(self)
        if count < 4:
            return range(count), range(count)
        kept = min(held_out, count // share)
        return range(count - kept), range(count - kept, count)


def open_data(
    data: Any,
    model: ir.Model,
    *,
    preprocess: str | Callable[[Path], Any] | None = None,
    tokenizer: str | os.PathLike[str] | None = None,
    limit: int | None = None,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
) -> CalibrationData:
    """Finds, opens and checks the data.

    Args:
        data: None; arrays by input name; a .npz or .npy file, a folder of these or of images, a
            .txt or .jsonl file; a function (also as "module:function" or "file.py:function") or any
            iterable that yields arrays by input name.
        model: The model that takes them.
        preprocess: How images become arrays: options as text (see `images`), or a function of a
            path that returns an array or arrays by input name, also as "file.py:function".
        tokenizer: A folder with a tokenizer.json, for text.
        limit: Use no more input sets than this.
        input_shapes: Shapes of inputs that are synthesized.

    Raises:
        InvalidInputError: It cannot be read or does not fit the model.
    """
    if limit is not None and limit < 1:
        raise InvalidInputError(f"at least one sample is needed, not {limit}")
    inputs = {v.name or "": v for v in model.graph.inputs if not v.is_initializer()}
    if data is None:
        given = "preprocess" if preprocess is not None else "tokenizer"
        if preprocess is not None or tokenizer is not None:
            raise InvalidInputError(f"--{given} is for --calibration DATA, which is not given")
        plan = plan_inputs(model, input_shapes=input_shapes)
        return CalibrationData(plan, synthesized=True, model=model)
    sets = _read(data, inputs, preprocess, None if tokenizer is None else Path(tokenizer))
    assumed = preprocess is None and any(isinstance(one.arrays, _Image) for one in sets)
    sets = [rows for one in sets for rows in in_rows(one, inputs)]
    if not sets:
        raise InvalidInputError("the calibration data holds no samples")
    count = len(sets)
    positions = _spread(count, limit)
    sets = [sets[index] for index in positions]
    plan = plan_inputs(model, sets, input_shapes=input_shapes)
    notes = []
    if assumed:
        notes.append(
            f"{count} images were read as RGB from 0 to 1, without mean and deviation: if the "
            "model was trained on others, give --preprocess"
        )
    if count < FEW_SAMPLES:
        notes.append(
            f"only {count} calibration sample{'s' * (count > 1)}: ranges may miss values that "
            "occur later; a few hundred are usual"
        )
    return CalibrationData(
        plan, synthesized=False, notes=tuple(notes), positions=positions, given=count
    )


def _read(
    data: Any,
    inputs: Mapping[str, ir.Value],
    preprocess: str | Callable[[Path], Any] | None,
    tokenizer: Path | None,
) -> list[UserData]:
    if isinstance(data, (str, os.PathLike)) and not names_function(os.fspath(data)):
        return _read_path(Path(data), inputs, preprocess, tokenizer)
    if isinstance(data, Sequence) and not isinstance(data, str):
        return [found for one in data for found in _read(one, inputs, preprocess, tokenizer)]
    _refuse_unused(preprocess, tokenizer)
    if isinstance(data, Mapping):
        return [UserData(data, "given data")]
    if isinstance(data, str):
        return _called(find_function(data), data)
    if callable(data):
        return _called(data, getattr(data, "__name__", "the function"))
    if isinstance(data, Iterable):
        return _called(lambda: data, "the iterable")
    raise InvalidInputError(
        "calibration data is arrays by name, a file, a folder, a function or an iterable, not "
        f"{type(data).__name__}"
    )


def _called(function: Callable[[], Any], source: str) -> list[UserData]:
    sets = enumerate(call_data_function(function, source))
    return [UserData(arrays, f"{source} #{index}") for index, arrays in sets]


def _read_path(
    path: Path,
    inputs: Mapping[str, ir.Value],
    preprocess: str | Callable[[Path], Any] | None,
    tokenizer: Path | None,
) -> list[UserData]:
    if not path.exists():
        raise InvalidInputError(f"{path}: there is no such file or folder")
    if path.suffix.lower() in TEXT_SUFFIXES:
        _refuse_unused(preprocess, None)
        texts = enumerate(read_texts(path, tokenizer, list(inputs)))
        return [UserData(arrays, f"{path} #{index}") for index, arrays in texts]
    images = [path]
    if path.is_dir():
        images = sorted(p for p in path.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
    if images and images[0].suffix.lower() in IMAGE_SUFFIXES:
        _refuse_unused(None, tokenizer)
        return _read_images(images, inputs, preprocess)
    _refuse_unused(preprocess, tokenizer)
    if not path.is_dir():
        return [UserData(read_file(path, inputs), str(path))]
    if not any(path.iterdir()):
        raise InvalidInputError(f"{path}: the folder is empty")
    return [UserData(arrays, source) for source, arrays in read_files(path)]


def _refuse_unused(preprocess: str | Callable[[Path], Any] | None, tokenizer: Path | None) -> None:
    """An option that does nothing is a mistake."""
    if preprocess is not None or tokenizer is not None:
        option, kind = ("preprocess", "images") if tokenizer is None else ("tokenizer", "text")
        raise InvalidInputError(f"--{option} is for {kind}, which --calibration does not give")


class _Image(Mapping[str, Any]):
    """An image that is read when its array is asked for."""

    def __init__(self, path: Path, name: str, function: Callable[[Path], Any]) -> None:
        self._path, self._name, self._function = path, name, function

    def __getitem__(self, name: str) -> Any:
        try:
            found = self._function(self._path)
        except USER_ERRORS as error:
            raise InvalidInputError(f"{self._path}: preprocessing failed: {error}") from error
        if isinstance(found, Mapping):
            return found[name]
        if name != self._name:
            raise KeyError(name)
        return found

    def __iter__(self) -> Iterator[str]:
        return iter((self._name,))

    def __len__(self) -> int:
        return 1


def _read_images(
    paths: Sequence[Path],
    inputs: Mapping[str, ir.Value],
    preprocess: str | Callable[[Path], Any] | None,
) -> list[UserData]:
    of_images = [n for n, v in inputs.items() if v.shape is not None and len(v.shape) == 4]
    if len(of_images) != 1:
        raise InvalidInputError(
            f"{paths[0].parent}: images need a model with one input of rank 4; the inputs are "
            f"{', '.join(inputs)}; give arrays by name in .npz files"
        )
    name = of_images[0]
    if (
        preprocess is None
        or isinstance(preprocess, ImagePreprocessing)
        or (isinstance(preprocess, str) and not names_function(preprocess))
    ):
        options = parse_preprocessing(preprocess or "").fitted(dims(inputs[name]) or ())
        function: Callable[[Path], Any] = options.apply
    else:
        function = find_function(preprocess) if isinstance(preprocess, str) else preprocess
    return [UserData(_Image(path, name, function), str(path)) for path in paths]


def _spread(count: int, limit: int | None) -> Sequence[int]:
    """Indexes of as many as allowed, from all over the data."""
    if limit is None or count <= limit:
        return range(count)
    return [index * count // limit for index in range(limit)]
