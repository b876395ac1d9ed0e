"""Files that are no models."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from helpers.broken_models import make_model
from helpers.hostile.corpus import case, save


@case
def empty_file(folder: Path) -> Path:
    return save(folder, b"")


@case
def random_bytes(folder: Path) -> Path:
    return save(folder, np.random.default_rng(0).bytes(10_000))


@case
def a_pickle(folder: Path) -> Path:
    return save(folder, b"\x80\x04cos\nsystem\n(S'touch /tmp/owned'\ntR.")


@case
def a_zip(folder: Path) -> Path:
    return save(folder, b"PK\x03\x04" + bytes(100))


@case
def text(folder: Path) -> Path:
    return save(folder, b"<html><body>404 Not Found</body></html>")


@case
def git_lfs_pointer(folder: Path) -> Path:
    return save(folder, b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")


@case
def truncated(folder: Path) -> Path:
    data = make_model().SerializeToString()
    return save(folder, data[: len(data) // 2])


@case
def zeros(folder: Path) -> Path:
    return save(folder, bytes(1 << 20))


@case
def length_beyond_the_file(folder: Path) -> Path:
    # Field 7 (the graph) of 2^34 bytes.
    return save(folder, b"\x08\x0a\x3a\x80\x80\x80\x80\x40")


@case
def varint_without_end(folder: Path) -> Path:
    return save(folder, b"\x08" + b"\xff" * 1000)


@case
def a_folder(folder: Path) -> Path:
    (folder / "model.onnx").mkdir(parents=True)
    return folder / "model.onnx"


@case
def a_pipe(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    os.mkfifo(folder / "model.onnx")
    return folder / "model.onnx"


@case
def link_to_nothing(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.onnx").symlink_to("gone.onnx")
    return folder / "model.onnx"
