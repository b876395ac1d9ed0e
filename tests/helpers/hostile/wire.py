"""Damage to protobuf itself."""

from __future__ import annotations

from pathlib import Path

from helpers.broken_models import make_model
from helpers.hostile.corpus import case, field, save
from onnx import helper


@case
def nested_600_levels(folder: Path) -> Path:
    """Written by hand: protobuf does not even build such a message."""
    graph = b""
    for _ in range(600):
        attribute = field(1, b"t") + field(6, graph) + b"\xa0\x01\x05"  # a graph
        graph = field(1, field(4, b"If") + field(5, attribute))
    return save(folder, b"\x08\x0a" + field(7, graph))


@case
def unknown_group_fields(folder: Path) -> Path:
    return save(folder, b"\xfb\x07" * 5000)


@case
def million_empty_nodes(folder: Path) -> Path:
    return save(folder, b"\x08\x0a" + field(7, b"\x0a\x00" * 1_000_000))


@case
def million_empty_strings(folder: Path) -> Path:
    node = helper.make_node("Foo", [""] * 1_000_000, ["y"], domain="odd")
    return save(folder, make_model([node]))


@case
def name_of_ten_megabytes(folder: Path) -> Path:
    name = "n" * 10_000_000
    nodes = [helper.make_node("Relu", ["x"], [name]), helper.make_node("Relu", [name], ["y"])]
    return save(folder, make_model(nodes))


@case
def name_is_not_utf8(folder: Path) -> Path:
    return save(folder, make_model().SerializeToString().replace(b"add_w", b"a\xff\xfe_w"))


@case
def name_with_terminal_codes(folder: Path) -> Path:
    node = helper.make_node("Relu", ["gone\x1b[2J\x1b]0;owned\x07"], ["y"])
    return save(folder, make_model([node]))


@case
def name_with_line_breaks(folder: Path) -> Path:
    return save(folder, make_model([helper.make_node("Relu", ["a\nTraceback:\nb"], ["y"])]))


@case
def document_of_fifty_megabytes(folder: Path) -> Path:
    model = make_model()
    model.doc_string = "d" * 50_000_000
    return save(folder, model)
