"""The best instruction set of this machine's CPU, by what matters to ONNX Runtime's kernels."""

from __future__ import annotations

import functools
import platform
from collections.abc import Collection
from pathlib import Path
from typing import Literal

# In each family later ones include earlier ones. vnni: 8-bit dot products (AVX-VNNI or
# AVX512-VNNI), without which 8-bit kernels are slower and saturate; dotprod and i8mm: the same on
# Arm.
Isa = Literal["generic", "avx2", "avx512", "vnni", "amx", "neon", "dotprod", "i8mm"]

# Names of the flags in /proc/cpuinfo, best first.
_FLAGS: tuple[tuple[Isa, frozenset[str]], ...] = (
    ("amx", frozenset({"amx_int8"})),
    ("vnni", frozenset({"avx512_vnni", "avx_vnni"})),
    ("avx512", frozenset({"avx512bw"})),
    ("avx2", frozenset({"avx2"})),
    ("i8mm", frozenset({"i8mm"})),
    ("dotprod", frozenset({"asimddp"})),
    ("neon", frozenset({"asimd", "neon"})),
)
_ARM = frozenset({"arm64", "aarch64"})


def best_isa(flags: Collection[str]) -> Isa:
    """The best instruction set that these CPU flags, as Linux names them, allow."""
    return next((isa for isa, any_of in _FLAGS if not any_of.isdisjoint(flags)), "generic")


def parse_cpuinfo(text: str) -> frozenset[str]:
    """The flags that all CPUs of a /proc/cpuinfo have; a core without one cannot run it."""
    found: frozenset[str] | None = None
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("flags", "Features"):
            flags = frozenset(value.split())
            found = flags if found is None else found & flags
    return found or frozenset()


@functools.cache
def detect_isa() -> Isa:
    """The best instruction set here.

    Only Linux lists flags in a file. Elsewhere what every CPU of the architecture has is assumed:
    every Arm Mac has dot products.
    """
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        return best_isa(parse_cpuinfo(cpuinfo.read_text(encoding="utf-8", errors="replace")))
    if platform.machine().lower() in _ARM:
        return "dotprod" if platform.system() == "Darwin" else "neon"
    return "generic"
