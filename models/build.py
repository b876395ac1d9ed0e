"""Builds reference models: `python models/build.py [--list] [NAME ...]`."""

from __future__ import annotations

import argparse
from pathlib import Path

import onnx
from cache import locate, materialize
from registry import MODELS, model
from spec import ModelSpec


def describe(path: Path) -> str:
    """The number of nodes and the size of a model, external data included."""
    nodes = len(onnx.load(path, load_external_data=False).graph.node)
    files = (path, *path.parent.glob(f"{path.name}.data"))
    megabytes = sum(file.stat().st_size for file in files) / 1e6
    return f"{nodes:6d} nodes {megabytes:8.1f} MB  {path}"


def status(spec: ModelSpec) -> str:
    """The description of a model if it is there."""
    path = locate(spec)
    return describe(path) if path.exists() else "(not built)"


def main() -> None:
    """Lists the models, or builds the named ones (all without a name)."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", metavar="NAME", nargs="*", help="a model; all without a name")
    parser.add_argument("--list", action="store_true", help="build nothing, show what is there")
    arguments = parser.parse_args()
    specs = [model(name) for name in arguments.names] or MODELS
    for spec in specs:
        text = status(spec) if arguments.list else describe(materialize(spec))
        print(f"{spec.name:20} opset {spec.opset}  {text}", flush=True)


if __name__ == "__main__":
    main()
