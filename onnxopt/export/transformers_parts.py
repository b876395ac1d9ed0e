"""From a transformers model to the parts of its export: inputs by modality, one or two files."""

from __future__ import annotations

import inspect
from typing import Any

from onnxopt.core.errors import InvalidInputError
from onnxopt.export.decoder_parts import decoder_part, seq2seq_parts
from onnxopt.export.filling import below, boxes, eos_ended_tokens, normal, padding_mask, tokens
from onnxopt.export.parts import Case, Filling, Input, Part
from onnxopt.export.tasks import Task

# What a model whose configuration does not say it is tried with; a multiple of every usual stride.
_IMAGE = 64
_STEP = 32
_SAMPLES = 4000
# Sizes that some models insist on.
_MAY_BE_FIXED = (("height", "width"), ("frames",), ("samples",), ("sequence",))


def transformers_parts(model: Any, task: Task) -> list[Part]:
    """The parts of a model's export.

    Args:
        model: A transformers model in evaluation mode.
        task: What it is exported for.

    Raises:
        InvalidInputError: The model takes inputs of a kind that is not known here.
    """
    config = model.config
    if getattr(config, "is_encoder_decoder", False) and task.name in (
        "text2text-generation",
        "automatic-speech-recognition",
    ):
        return seq2seq_parts(model, main_input(model))
    if task.name == "text-generation" and model.can_generate():
        return [decoder_part(model)]
    return [_encoder_part(model, task)]


def main_input(model: Any) -> Input:
    """The input that a model cannot do without."""
    name = model.main_input_name
    config = model.config
    if name == "input_ids":
        return Input(name, ("batch", "sequence"), _token_filling(config))
    if name == "pixel_values" and hasattr(config, "num_frames"):  # a video
        frames = config.num_frames
        return Input(name, ("batch", frames, _channels(config), "height", "width"), normal)
    if name == "pixel_values":
        return Input(name, ("batch", _channels(config), "height", "width"), normal)
    if name == "input_features":
        frames = 2 * getattr(config, "max_source_positions", 0)
        bins = getattr(config, "num_mel_bins", 80)
        shape = ("batch", bins, frames) if frames else ("batch", "frames", bins)
        return Input(name, shape, normal)
    if name == "input_values":
        if hasattr(config, "num_mel_bins"):  # a spectrogram
            return Input(name, ("batch", config.max_length, config.num_mel_bins), normal)
        return Input(name, ("batch", "samples"), normal)
    raise InvalidInputError(
        f"{type(model).__name__} has the main input {name!r}, which is not known here; export it "
        "from a function that returns the module and example inputs: module:function"
    )


def _encoder_part(model: Any, task: Task) -> Part:
    inputs = _encoder_inputs(model)
    sizes = _first_sizes(model, inputs)
    cases = [Case(sizes)]
    cases.append(Case({s: _smaller(s, n) for s, n in sizes.items()}, seed=1))
    cases.append(Case({s: _larger(s, n) for s, n in sizes.items()}, ragged=True, seed=2))
    options = {}
    if "use_cache" in inspect.signature(model.forward).parameters:
        options["use_cache"] = False
    from onnxopt.export.wrappers import Flat

    names = [one.name for one in inputs]
    outputs = _output_names(model, task, names, options, inputs, cases[0])
    module = Flat(model, names, outputs, options).eval()
    return Part(
        "model",
        module,
        tuple(inputs),
        tuple(outputs),
        tuple(cases),
        mask="attention_mask" if "attention_mask" in names else "",
        may_fix=_MAY_BE_FIXED,
    )


def _encoder_inputs(model: Any) -> list[Input]:
    config, parameters = model.config, inspect.signature(model.forward).parameters
    main = main_input(model)
    two_inputs = main.name == "input_ids" and "pixel_values" in parameters
    text, image = ("text_batch", "image_batch") if two_inputs else ("batch", "batch")
    if main.name != "input_ids":
        return [main]
    found = [Input("input_ids", (text, "sequence"), main.fill)]
    if two_inputs:
        vision = getattr(config, "vision_config", config)
        found.append(Input("pixel_values", (image, _channels(vision), "height", "width"), normal))
    if "attention_mask" in parameters:
        found.append(Input("attention_mask", (text, "sequence"), padding_mask(left=False)))
    kinds = getattr(config, "type_vocab_size", 0) or 0
    if "token_type_ids" in parameters and kinds > 1:
        found.append(Input("token_type_ids", (text, "sequence"), below(kinds)))
    if "bbox" in parameters:  # where on the page a token is: without it a model of pages is blind
        found.append(Input("bbox", (text, "sequence", 4), boxes))
    return found


def _token_filling(config: Any) -> Filling:
    text = getattr(config, "text_config", None) or config
    eos = getattr(text, "eos_token_id", None)
    if text is not config and isinstance(eos, int):
        return eos_ended_tokens(text.vocab_size, eos)
    return tokens(text.vocab_size)


def _channels(config: Any) -> int:
    return int(getattr(config, "num_channels", 3))


def _first_sizes(model: Any, inputs: list[Input]) -> dict[str, int]:
    config = model.config
    vision = getattr(config, "vision_config", None) or config
    image = getattr(vision, "image_size", None) or _IMAGE
    height, width = image if isinstance(image, (list, tuple)) else (image, image)
    known = {
        "batch": 2, "text_batch": 2, "image_batch": 3, "sequence": 7, "height": height,
        "width": width, "samples": _SAMPLES, "frames": 48,
    }  # fmt: skip
    text = getattr(config, "text_config", None) or config
    longest = getattr(text, "max_position_embeddings", None) or 512
    known["sequence"] = min(known["sequence"], longest)
    used = {dim for one in inputs for dim in one.shape if isinstance(dim, str)}
    return {symbol: size for symbol, size in known.items() if symbol in used}


def _smaller(symbol: str, size: int) -> int:
    changed = {"batch": 1, "text_batch": 1, "image_batch": 1, "sequence": 5}
    if symbol in ("height", "width"):
        return size + _STEP
    return changed.get(symbol, size - size // 5)


def _larger(symbol: str, size: int) -> int:
    changed = {"batch": 3, "text_batch": 4, "image_batch": 2, "sequence": 11}
    if symbol in ("height", "width"):
        return size + (_STEP if symbol == "height" else 2 * _STEP)
    return changed.get(symbol, size + size // 3)


def _output_names(
    model: Any,
    task: Task,
    names: list[str],
    options: dict[str, Any],
    inputs: list[Input],
    case: Case,
) -> list[str]:
    """Fields of the output that hold tensors."""
    import torch

    part = Part("probe", None, tuple(inputs), (), (case,))
    with torch.no_grad():
        result = model(**part.make(case), **options, return_dict=True)
    found = [name for name, value in result.items() if isinstance(value, torch.Tensor)]
    wanted = [name for name in task.outputs if name in found]
    if wanted:
        return wanted
    # The pooled output of a text encoder is untrained in most of them; other tools leave it out.
    if "last_hidden_state" in found and "input_ids" in names and "pixel_values" not in names:
        return [n for n in found if n not in ("pooler_output", "loss")]
    return [name for name in found if name != "loss"]
