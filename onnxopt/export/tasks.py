"""Tasks: what a model is exported for, and the transformers class that does it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal

from onnxopt.core.errors import InvalidInputError

Family = Literal["encoder", "decoder", "seq2seq"]


@dataclasses.dataclass(frozen=True)
class Task:
    """A task, by the name that Hugging Face gives it.

    Attributes:
        name: The name.
        auto: The transformers class that loads a model for it.
        endings: How the names of architectures for it end.
        outputs: Fields of the model's output to export, where it has them; all tensors if empty.
    """

    name: str
    auto: str
    endings: tuple[str, ...]
    outputs: tuple[str, ...] = ()


_LOGITS = ("logits",)
# Longer endings first: "ForConditionalGeneration" says less than what precedes it.
TASKS: tuple[Task, ...] = (
    Task(
        "text-generation",
        "AutoModelForCausalLM",
        ("ForCausalLM", "LMHeadModel"),
        ("logits",),
    ),
    Task("fill-mask", "AutoModelForMaskedLM", ("ForMaskedLM",), _LOGITS),
    Task(
        "text-classification",
        "AutoModelForSequenceClassification",
        ("ForSequenceClassification",),
        _LOGITS,
    ),
    Task(
        "token-classification",
        "AutoModelForTokenClassification",
        ("ForTokenClassification",),
        _LOGITS,
    ),
    Task(
        "question-answering",
        "AutoModelForQuestionAnswering",
        ("ForQuestionAnswering", "ForQuestionAnsweringSimple"),
        ("start_logits", "end_logits"),
    ),
    Task(
        "text2text-generation",
        "AutoModelForSeq2SeqLM",
        ("ForConditionalGeneration", "MTModel"),
        _LOGITS,
    ),
    Task(
        "image-classification",
        "AutoModelForImageClassification",
        ("ForImageClassification", "ForImageClassificationWithTeacher"),
        _LOGITS,
    ),
    Task(
        "video-classification",
        "AutoModelForVideoClassification",
        ("ForVideoClassification",),
        _LOGITS,
    ),
    Task(
        "object-detection",
        "AutoModelForObjectDetection",
        ("ForObjectDetection",),
        ("logits", "pred_boxes"),
    ),
    Task(
        "semantic-segmentation",
        "AutoModelForSemanticSegmentation",
        ("ForSemanticSegmentation",),
        _LOGITS,
    ),
    Task(
        "depth-estimation",
        "AutoModelForDepthEstimation",
        ("ForDepthEstimation",),
        ("predicted_depth",),
    ),
    Task("automatic-speech-recognition", "AutoModelForCTC", ("ForCTC",), _LOGITS),
    Task(
        "audio-classification",
        "AutoModelForAudioClassification",
        ("ForAudioClassification",),
        _LOGITS,
    ),
    Task(
        "zero-shot-image-classification",
        "AutoModelForZeroShotImageClassification",
        ("CLIPModel", "SiglipModel", "AltCLIPModel", "ChineseCLIPModel"),
        ("logits_per_image", "logits_per_text", "text_embeds", "image_embeds"),
    ),
    Task("feature-extraction", "AutoModel", ("Model", "ModelWithProjection", "Encoder")),
)
_BY_NAME = {task.name: task for task in TASKS}
# Names that other tools use, and what they mean here; the past is always exported.
_ALIASES = {
    "text-generation-with-past": "text-generation",
    "causal-lm": "text-generation",
    "text2text-generation-with-past": "text2text-generation",
    "summarization": "text2text-generation",
    "translation": "text2text-generation",
    "sentence-similarity": "feature-extraction",
    "image-feature-extraction": "feature-extraction",
    "masked-lm": "fill-mask",
    "default": "feature-extraction",
    "image-segmentation": "semantic-segmentation",
    "automatic-speech-recognition-with-past": "automatic-speech-recognition",
}


def find_task(name: str | None, architectures: Sequence[str], source: str) -> Task:
    """The task that was asked for, or that the model's architecture is for.

    Args:
        name: What the user asked for; None to go by the architecture.
        architectures: `config.architectures`.
        source: Where the model is from, for messages.

    Raises:
        InvalidInputError: There is no such task, or nothing says which one it is.
    """
    if name is not None:
        found = _BY_NAME.get(_ALIASES.get(name, name))
        if found is None:
            raise InvalidInputError(f"no task {name!r}; there are {', '.join(_BY_NAME)}")
        return found
    if not architectures:
        raise InvalidInputError(
            f"{source}: its config.json names no architecture, so the task is not known; give "
            f"--task, one of {', '.join(_BY_NAME)}"
        )
    for task in TASKS:
        if architectures[0].endswith(task.endings):
            return task
    raise InvalidInputError(
        f"{source}: no task is known for the architecture {architectures[0]}; give --task, one of "
        f"{', '.join(_BY_NAME)}"
    )
