"""Where the files of the reference models lie, and how they get there."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from spec import ModelSpec


def cache_dir() -> Path:
    """`$ONNXOPT_CACHE`, or a folder of the user's cache."""
    return Path(os.environ.get("ONNXOPT_CACHE") or "~/.cache/onnxopt/models").expanduser()


def locate(spec: ModelSpec) -> Path:
    """The path of a model's file, whether or not it has been built."""
    file = f"{spec.name}.onnx"
    if spec.committed:
        return Path(__file__).parent / file
    return cache_dir() / f"{spec.name}-v{spec.version}" / file


def materialize(spec: ModelSpec) -> Path:
    """Returns the path of a model's file, and builds it first where it is missing.

    The build goes to a temporary folder that gets its name only once it is complete, so an
    interrupted build leaves nothing behind and two builds at a time do no harm.
    """
    path = locate(spec)
    if path.exists():
        return path
    if spec.committed:
        raise FileNotFoundError(f"{path} is committed; `python models/{spec.name}.py` trains it.")
    cache_dir().mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{spec.name}-", dir=cache_dir()))
    try:
        spec.build(temporary / path.name)
        temporary.chmod(0o755)
        temporary.rename(path.parent)
    except OSError:
        if not path.exists():  # otherwise another process was first
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return path
