"""The machine and the versions that a bundle was measured with, and what another one lacks."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from onnxopt.instruction_sets import detect_isa
from onnxopt.runtime.library import load_runtime
from onnxopt.runtime.providers import PROVIDERS

_PACKAGES = ("onnxopt", "onnxruntime", "onnxruntime-gpu", "onnx", "onnx-ir", "onnxscript", "numpy")


def describe_environment() -> dict[str, Any]:
    """CPU, instruction set, cores, system, providers and versions, as plain data."""
    return {
        "cpu": _cpu(),
        "isa": detect_isa(),
        "cores": os.cpu_count(),
        "gpu": _gpu(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "providers": list(load_runtime().get_available_providers()),
        "versions": _versions(),
    }


def environment_warnings(recorded: Mapping[str, Any], provider: str) -> list[str]:
    """What this machine lacks of the recorded one, in sentences."""
    here = describe_environment()
    warnings = []
    wanted = PROVIDERS[provider][0]
    if wanted not in here["providers"]:
        warnings.append(
            f"the installed ONNX Runtime has no {wanted}, which the bundle was tuned for"
        )
    if recorded.get("isa") != here["isa"]:
        warnings.append(
            f"measured with instruction set {recorded.get('isa')}, this machine has "
            f"{here['isa']}: speed may differ"
            + (", and 8-bit products may saturate" if _saturates(here["isa"], recorded) else "")
        )
    versions = recorded.get("versions")
    if isinstance(versions, Mapping):
        for name, version in here["versions"].items():
            if name.startswith("onnxruntime") and versions.get(name, version) != version:
                warnings.append(f"measured with {name} {versions[name]}, here is {version}")
    return warnings


def _saturates(isa: str, recorded: Mapping[str, Any]) -> bool:
    return isa in ("generic", "avx2", "avx512") and recorded.get("isa") in ("vnni", "amx")


def _cpu() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor()


def _gpu() -> str | None:
    """The first CUDA device as the driver names it."""
    folder = Path("/proc/driver/nvidia/gpus")
    for device in sorted(folder.glob("*/information")) if folder.is_dir() else ():
        for line in device.read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "Model":
                return value.strip()
    return None


def _versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
