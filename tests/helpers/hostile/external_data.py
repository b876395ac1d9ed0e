"""Weights outside the file, where they must not be."""

from __future__ import annotations

from pathlib import Path

from helpers.broken_models import external_model
from helpers.hostile.corpus import HUGE, case


@case
def external_data_outside(folder: Path) -> Path:
    return Path(external_model(folder, location="../../../../etc/passwd"))


@case
def external_data_absolute(folder: Path) -> Path:
    return Path(external_model(folder, location="/etc/passwd"))


@case
def external_data_linked(folder: Path) -> Path:
    path = Path(external_model(folder, location="link.bin"))
    (folder / "link.bin").symlink_to("/etc/passwd")
    return path


@case
def external_data_is_a_device(folder: Path) -> Path:
    path = Path(external_model(folder, location="link.bin"))
    (folder / "link.bin").symlink_to("/dev/zero")
    return path


@case
def external_data_is_the_model(folder: Path) -> Path:
    return Path(external_model(folder, location="model.onnx"))


@case
def external_data_missing(folder: Path) -> Path:
    return Path(external_model(folder, location="gone.bin"))


@case
def external_data_of_exabytes(folder: Path) -> Path:
    return Path(external_model(folder, offset=str(HUGE), length=str(HUGE)))


@case
def external_data_negative(folder: Path) -> Path:
    return Path(external_model(folder, offset="-8"))
