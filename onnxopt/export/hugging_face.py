"""Hugging Face models: from a folder, or fetched from the hub. Never with code of their own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from onnxopt.core.errors import InvalidInputError
from onnxopt.export.configurations import check_configuration
from onnxopt.export.sources import Loaded
from onnxopt.export.tasks import Task, find_task
from onnxopt.export.transformers_parts import transformers_parts
from onnxopt.runtime.inputs.user_functions import user_code

_TIMEOUT = 5.0  # seconds until the hub counts as unreachable
_WANTED = ("*.json", "*.txt", "*.model", "*.jinja", "*.safetensors")
_TEXT_SUFFIXES = (".json", ".txt", ".model", ".jinja")
# Beyond this it is no configuration and no vocabulary.
_LARGEST_COMPANION = 100 << 20


def fetch(name: str) -> Path:
    """The folder of a hub model; downloaded if it is not in the cache.

    Raises:
        InvalidInputError: There is no such model, or the hub cannot be reached.
    """
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        return Path(huggingface_hub.snapshot_download(name, local_files_only=True))
    except (OSError, ValueError, HFValidationError):
        pass  # not in the cache
    try:
        # One quick question first: the download tries again and again.
        huggingface_hub.HfApi().model_info(name, timeout=_TIMEOUT)
        return Path(huggingface_hub.snapshot_download(name, allow_patterns=list(_WANTED)))
    except HfHubHTTPError as error:
        raise InvalidInputError(
            f"{name}: no folder here, and the Hugging Face hub has no such model that is open to "
            f"you ({_line(error)})"
        ) from error
    except _connection_errors() as error:
        raise InvalidInputError(
            f"{name}: no folder here, not in the Hugging Face cache, and the hub cannot be "
            f"reached ({_line(_cause(error))}); give a local folder"
        ) from error


def _connection_errors() -> tuple[type[Exception], ...]:
    """What the hub's client raises without a network; which one it is depends on its version."""
    found: list[type[Exception]] = [OSError, RuntimeError]
    try:
        import httpx

        found.append(httpx.HTTPError)
    except ImportError:
        pass
    return tuple(found)


def load_hugging_face(source: str, folder: Path, task: str | None) -> Loaded:
    """Loads a model from its folder: safetensors, in float32, none of its own code.

    Args:
        source: What the user gave, for messages.
        folder: The folder.
        task: The task that was asked for.

    Raises:
        InvalidInputError: It cannot be loaded, or the task is not known.
    """
    from transformers import AutoConfig

    _require_safetensors(source, folder)
    check_configuration(source, folder)
    with user_code(wrap=lambda error: _unreadable(source, "read its configuration", error)):
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    architectures = config.architectures or []
    found = find_task(task, architectures, source)
    model, untrained = _load_model(source, folder, found, architectures)
    name = found.name
    if name == "text2text-generation" and model.main_input_name != "input_ids":
        name = "automatic-speech-recognition"
    with user_code(wrap=lambda error: _unreadable(source, f"be run for {found.name}", error)):
        parts = transformers_parts(model, found)
    return Loaded(parts, model, name, folder, tuple(sorted(untrained)))


def _load_model(
    source: str, folder: Path, task: Task, architectures: list[str]
) -> tuple[Any, set[str]]:
    import torch
    import transformers

    own = architectures[0] if architectures else ""
    if own.endswith(task.endings) and hasattr(transformers, own):
        loader = getattr(transformers, own)
    else:
        loader = getattr(transformers, task.auto)
    with user_code(wrap=lambda error: _unreadable(source, f"be loaded for {task.name}", error)):
        model, info = loader.from_pretrained(
            folder,
            dtype=torch.float32,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
        )
    return model.eval(), set(info["missing_keys"])


def _require_safetensors(source: str, folder: Path) -> None:
    names = [path.name for path in folder.iterdir()]
    if any(name.endswith(".safetensors") for name in names):
        return
    pickles = [name for name in names if name.endswith((".bin", ".pt", ".pth", ".h5", ".msgpack"))]
    if pickles:
        raise InvalidInputError(
            f"{source} has its weights as {pickles[0]}, not as safetensors; a pickle can run code "
            "when it is read: load it where you trust it and save it again with "
            "save_pretrained(..., safe_serialization=True)"
        )
    raise InvalidInputError(f"{source} has no weights: no .safetensors file is in it")


def companions(folder: Path) -> list[Path]:
    """Configuration, tokenizer and processor files, relative to the folder."""
    weights = {"model.safetensors.index.json", "pytorch_model.bin.index.json"}
    found = [*folder.iterdir(), *(p for sub in _modules(folder) for p in sub.iterdir())]
    return sorted(
        path.relative_to(folder)
        for path in found
        if path.suffix in _TEXT_SUFFIXES
        and path.is_file()
        and path.name not in weights
        and path.stat().st_size <= _LARGEST_COMPANION
    )


def _modules(folder: Path) -> list[Path]:
    """Folders of sentence-transformers' modules, as 1_Pooling."""
    try:
        modules = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
        names = [str(module["path"]) for module in modules if module["path"]]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    return [folder / name for name in names if Path(name).name == name and (folder / name).is_dir()]


def _unreadable(source: str, what: str, error: BaseException) -> InvalidInputError:
    reason = _line(error)
    if "trust_remote_code" in str(error):
        reason = (
            "it needs code of its own, which is not run; export it from a function of yours, "
            "file.py:function"
        )
    return InvalidInputError(f"{source}: cannot {what}: {reason}")


def _cause(error: BaseException) -> BaseException:
    """What the layers of a network client wrapped, each with all that the one below said."""
    while (inner := error.__cause__ or error.__context__) is not None:
        error = inner
    return error


def _line(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else text[:297] + "..."
