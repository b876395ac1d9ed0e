"""Rules of the project that no other tool checks."""

from __future__ import annotations

import inspect
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from onnxopt.core.passes import Pass, RewritePass
from onnxopt.passes import PASSES
from onnxopt.passes.parsing import parse_passes
from onnxopt.presets import cleanup

ROOT = Path(__file__).resolve().parent.parent


def test_every_subpackage_is_listed_for_setuptools() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    found = {
        ".".join(path.parent.relative_to(ROOT).parts)
        for top in ("onnxopt", "passes")
        for path in (ROOT / top).rglob("__init__.py")
        if "onnxopt/passes" not in path.as_posix()
    }
    found = {
        name.replace("passes", "onnxopt.passes", 1) if name.startswith("passes") else name
        for name in found
    }
    assert set(listed) == found


def test_every_pass_file_is_in_passes() -> None:
    from importlib import import_module

    defined = set()
    for path in (ROOT / "passes").rglob("*.py"):
        module = import_module("onnxopt." + ".".join(path.relative_to(ROOT).with_suffix("").parts))
        for _, cls in inspect.getmembers(module, inspect.isclass):
            if cls.__module__ == module.__name__ and issubclass(cls, Pass) and cls.name:
                defined.add(cls)
    assert defined == set(PASSES)


@pytest.mark.parametrize("cls", PASSES, ids=lambda cls: cls.name)
def test_pass_is_documented_and_tested(cls: type[Pass]) -> None:
    assert inspect.getdoc(cls)
    module = sys.modules[cls.__module__]
    assert len(inspect.getdoc(module) or "") > 80
    group, name = cls.__module__.split(".")[-2:]
    assert (ROOT / "tests" / "passes" / group / f"test_{name}.py").exists()
    assert cls.name == cls.name.lower()
    assert " " not in cls.name
    assert str(parse_passes(str(cls()), PASSES)[0]) == str(cls())


def test_rewrite_passes_compile_and_index_when_built() -> None:
    from onnxopt.core.rule_index import root_key

    for cls in PASSES:
        if issubclass(cls, RewritePass):
            assert all(root_key(rule) for rule in cls().rules()), cls.name


def test_preset_builds_and_prints_when_parsed_back() -> None:
    from onnxopt.core.pipeline import Pipeline

    pipeline = Pipeline(cleanup())
    assert [str(p) for p in parse_passes(str(pipeline), PASSES)] == [
        str(p) for p in pipeline.flattened()
    ]


def test_generated_documentation_is_up_to_date() -> None:
    check = subprocess.run(
        [sys.executable, str(ROOT / "docs" / "generate.py"), "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert check.returncode == 0, check.stderr


def test_readme_has_exactly_two_set_up_commands() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert readme.count("```bash") == 2
    assert readme.index("<!-- run-command -->") < readme.index("<!-- test-command -->")
