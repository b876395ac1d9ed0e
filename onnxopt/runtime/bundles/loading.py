"""`load_bundle`: a ready session with the options that were measured."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from onnxopt.core.errors import InvalidInputError, InvalidModelError
from onnxopt.runtime.bundles.manifest import MANIFEST, hash_file, parse_record, read_record
from onnxopt.runtime.bundles.seals import broken_seals
from onnxopt.runtime.providers import PROVIDERS

if TYPE_CHECKING:
    import onnxruntime as ort


def load_bundle(
    folder: str | os.PathLike[str], *, provider: str | None = None, check: bool = True
) -> ort.InferenceSession:
    """Opens the model of a bundle.

    Args:
        folder: The bundle's folder.
        provider: "cpu" or "cuda" in place of what the bundle was tuned for.
        check: Compare the hashes of the model's files first, which reads them once.

    Returns:
        An ordinary session of ONNX Runtime.

    Raises:
        InvalidInputError: The folder is no bundle, its record is damaged, or there is no such
            provider.
        InvalidModelError: A file or an option is not what it was when the bundle was made.
        CannotRunError: ONNX Runtime refuses the model.
    """
    if provider is not None and provider not in PROVIDERS:
        raise InvalidInputError(f"provider {provider!r} is none of {', '.join(PROVIDERS)}")
    root = Path(folder)
    record = read_record(root)
    manifest = parse_record(record, str(root / MANIFEST))
    if check:
        seals = record.get("seals")
        own = {name: value for name, value in record.items() if name != "seals"}
        for name in broken_seals(own, seals if isinstance(seals, dict) else {}):
            raise InvalidModelError(f"{root / MANIFEST}: {name} was changed; see onnxopt verify")
        for name, entry in manifest.files.items():
            path = root / name
            try:
                if not path.is_file():
                    raise InvalidModelError(f"{root} is incomplete: {name} is missing")
                if hash_file(path) != entry:
                    raise InvalidModelError(f"{path} was changed; see onnxopt verify")
            except OSError as error:
                raise InvalidModelError(f"cannot read {path}: {error.strerror}") from error
    return manifest.session.open(root / manifest.model, provider=provider).native
