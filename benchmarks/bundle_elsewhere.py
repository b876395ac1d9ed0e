"""Does a bundle verify in a fresh environment and another folder, and is damage named there?

    python benchmarks/bundle_elsewhere.py [MODEL ...]

Makes a virtual environment with nothing but onnxopt and ONNX Runtime, bundles each model with the
Python that runs this script (models/ by default), moves the bundle to another folder, as it is and
as a .zip, and runs `onnxopt verify` of the fresh environment on it. Then a byte of the weights is
flipped, a file is taken away and an option is changed, and each has to be named.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
import venv
from collections.abc import Callable
from pathlib import Path

_ROOT = Path(__file__).resolve().parent.parent


def _flip(bundle: Path) -> str:
    model = bundle / "model.onnx"
    data = bytearray(model.read_bytes())
    data[len(data) // 2] ^= 1
    model.write_bytes(data)
    return "model.onnx was changed"


def _take_away(bundle: Path) -> str:
    sample = next((bundle / "samples").iterdir())
    sample.unlink()
    return f"samples/{sample.name} is missing"


def _change_option(bundle: Path) -> str:
    record = bundle / "bundle.json"
    text = record.read_text(encoding="utf-8")
    record.write_text(re.sub(r'"spinning": \w+', '"spinning": 1', text), encoding="utf-8")
    return "spinning"


_DAMAGES: dict[str, Callable[[Path], str]] = {
    "a flipped bit": _flip,
    "a missing file": _take_away,
    "a changed option": _change_option,
}


def main(models: list[Path]) -> int:
    failures = 0
    with tempfile.TemporaryDirectory() as scratch:
        python = _environment(Path(scratch) / "environment")
        for number, model in enumerate(models):
            made, there = Path(scratch) / f"made{number}", Path(scratch) / f"there{number}"
            there.mkdir()
            command = [sys.executable, "-m", "onnxopt", "optimize", str(model), "-q", "--zip"]
            subprocess.run([*command, "--bundle", str(made), "--bundle-seconds", "1"], check=True)
            shutil.move(made, there / "moved")
            shutil.move(made.with_suffix(".zip"), there / "moved.zip")
            for path in (there / "moved", there / "moved.zip"):
                code, said = _verify(python, path)
                failures += _tell(f"{model.name}: {path.name}", code == 0, said)
            for name, damage in _DAMAGES.items():
                copy = Path(shutil.copytree(there / "moved", there / name))
                wanted = damage(copy)
                code, said = _verify(python, copy)
                failures += _tell(f"{model.name}: {name}", code != 0 and wanted in said, said)
    return min(failures, 1)


def _environment(folder: Path) -> Path:
    venv.create(folder, with_pip=True)
    python = folder / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    constraints = ["-c", str(_ROOT / "constraints.txt")]
    install = [str(python), "-m", "pip", "install", "-q", *constraints, f"{_ROOT}[cpu]"]
    subprocess.run(install, check=True)
    return python


def _verify(python: Path, bundle: Path) -> tuple[int, str]:
    # Isolated: neither this folder's modules nor variables of this environment are found.
    command = [str(python), "-I", "-m", "onnxopt", "verify", str(bundle)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=bundle.parent)
    return done.returncode, done.stdout + done.stderr


def _tell(what: str, good: bool, said: str) -> int:
    print(f"{what:50} {'as it should be' if good else 'WRONG'}", flush=True)
    if not good:
        print(said)
    return int(not good)


if __name__ == "__main__":
    given = [Path(name) for name in sys.argv[1:]]
    sys.exit(main(given or sorted((_ROOT / "models").glob("digits_*.onnx"))[:2]))
