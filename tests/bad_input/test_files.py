from __future__ import annotations

import os
import time

import numpy as np
import pytest
from helpers.broken_models import make_model, nested_model, refusal

from onnxopt.core.errors import InvalidInputError, InvalidModelError
from onnxopt.graph.loading import load_model


def test_missing_file_is_named(tmp_path):
    message = refusal(lambda: load_model(tmp_path / "no.onnx"), InvalidInputError)
    assert f"{tmp_path / 'no.onnx'} does not exist" == message


def test_folder_points_to_the_one_model_inside(tmp_path):
    (tmp_path / "net.onnx").write_bytes(b"x")
    message = refusal(lambda: load_model(tmp_path), InvalidInputError, "is a folder")
    assert str(tmp_path / "net.onnx") in message


def test_folder_with_several_models_asks_for_one(tmp_path):
    for name in ("a.onnx", "b.onnx"):
        (tmp_path / name).write_bytes(b"x")
    refusal(lambda: load_model(tmp_path), InvalidInputError, "one of the 2")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable_file_is_refused(tmp_path):
    path = tmp_path / "m.onnx"
    path.write_bytes(make_model().SerializeToString())
    path.chmod(0)
    refusal(lambda: load_model(path), InvalidInputError, "Permission denied")


def test_pipe_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / "pipe.onnx")
    refusal(lambda: load_model(tmp_path / "pipe.onnx"), InvalidInputError, "not a regular file")


def test_nul_in_the_path_is_refused():
    refusal(lambda: load_model("a\0b.onnx"), InvalidInputError)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "empty"),
        (b"\x00" * 100, "damaged"),
        (np.random.default_rng(1).bytes(4096), "damaged"),
        (np.random.default_rng(2).bytes(3 << 20), "damaged"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "git lfs pull"),
        (b"PK\x03\x04" + b"\x00" * 40, "zip"),
        (b"<!DOCTYPE html><html></html>", "HTML"),
        (b"\x18\x00\x00\x00ORTM" + b"\x00" * 40, "ONNX Runtime's own format"),
        (b"\x08\x0a", "no graph"),
        (b"hello, world", "damaged"),
    ],
)
def test_what_is_no_model_is_refused(tmp_path, content, match):
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    message = refusal(lambda: load_model(path), InvalidModelError, match)
    assert message.startswith(f"{path}: ")


def test_every_truncation_is_refused_or_a_valid_prefix(tmp_path):
    whole = make_model().SerializeToString()
    path = tmp_path / "m.onnx"
    for length in [*range(1, 60), *range(60, len(whole), 211), len(whole) - 1]:
        path.write_bytes(whole[:length])
        refusal(lambda: load_model(path), InvalidModelError)


def test_larger_than_allowed_is_refused(tmp_path):
    path = tmp_path / "m.onnx"
    path.write_bytes(make_model().SerializeToString())
    refusal(lambda: load_model(path, max_bytes=1000), InvalidModelError, "at most 1000")
    load_model(path, max_bytes=100_000)


def test_thirty_levels_of_subgraphs_load(tmp_path):
    path = tmp_path / "deep.onnx"
    path.write_bytes(nested_model(30).SerializeToString())
    assert len(list(load_model(path).graphs())) == 61


def test_six_hundred_levels_of_subgraphs_are_refused(tmp_path):
    path = tmp_path / "deep.onnx"
    path.write_bytes(_nested_bytes(600))
    refusal(lambda: load_model(path), InvalidModelError, "nested deeper")


def _nested_bytes(levels: int) -> bytes:
    """Written by hand: protobuf does not even build such a message."""
    from onnxopt.graph.wire import length_delimited

    graph = b""
    for _ in range(levels):
        attribute = length_delimited(1, 1) + b"t" + length_delimited(6, len(graph)) + graph
        attribute += b"\xa0\x01\x05"  # type: GRAPH
        node = length_delimited(4, 2) + b"If" + length_delimited(5, len(attribute)) + attribute
        graph = length_delimited(1, len(node)) + node
    return b"\x08\x0a" + length_delimited(7, len(graph)) + graph


def test_millions_of_empty_nodes_are_refused_in_time(tmp_path):
    from onnxopt.graph.wire import length_delimited

    nodes = b"\x0a\x00" * 2_000_000
    path = tmp_path / "m.onnx"
    path.write_bytes(b"\x08\x0a" + length_delimited(7, len(nodes)) + nodes)
    start = time.process_time()
    refusal(lambda: load_model(path), InvalidModelError)
    assert time.process_time() - start < 4


@pytest.mark.filterwarnings("ignore:The onnxtxt format is experimental")
def test_broken_text_format_is_refused(tmp_path):
    for suffix in (".onnxtxt", ".json", ".textproto"):
        path = tmp_path / f"m{suffix}"
        path.write_text("this is { not a model")
        refusal(lambda path=path: load_model(path), InvalidModelError, "cannot be read as")
