"""Arithmetic and proofs on dimensions; a symbol is any integer >= 0."""

from __future__ import annotations

import pytest

from onnxopt.graph import symbolic
from onnxopt.graph.symbolic import Symbols, is_named


@pytest.mark.parametrize(
    ("function", "first", "second", "expected"),
    [
        (symbolic.add, "N", 1, "N + 1"),
        (symbolic.add, "past", "seq", "past + seq"),
        (symbolic.sub, "past + seq", "past", "seq"),
        (symbolic.sub, "N", "N", 0),
        (symbolic.mul, "N", 12, "12*N"),
        (symbolic.mul, 3, 4, 12),
        (symbolic.div, "4*N", 4, "N"),
        (symbolic.div, "N", 2, "floor(N/2)"),
        (symbolic.div, -7, 2, -3),
        (symbolic.div, "N", 0, None),
        (symbolic.div, "N - 5", 2, None),
        (symbolic.exact_div, "12*N", "N", 12),
        (symbolic.exact_div, "N", 2, None),
        (symbolic.exact_div, 12, 5, None),
        (symbolic.mod, -7, 3, 2),
        (symbolic.mod, "4*N", 2, 0),
        (symbolic.mod, "N", 0, None),
        (symbolic.smaller, "N", "N + 1", "N"),
        (symbolic.larger, "N", 0, "N"),
        (symbolic.larger, "N", 1, "Max(1, N)"),
        (symbolic.broadcast, "N", 1, "N"),
        (symbolic.broadcast, "N", 4, 4),
        (symbolic.broadcast, "N", "N", "N"),
        (symbolic.broadcast, "N", "M", None),
        (symbolic.broadcast, "S", "Min(512, S)", "S"),
        (symbolic.broadcast, "S", "Min(0, S)", None),
        (symbolic.broadcast, "S", "Min(M, S)", None),
    ],
)
def test_result(function: object, first: object, second: object, expected: object) -> None:
    assert callable(function)
    assert function(first, second) == expected


def test_empty_size_is_never_ruled_out() -> None:
    assert not symbolic.is_at_least("N", 1)
    assert symbolic.is_at_least("N", 0)
    assert symbolic.is_at_least("N + 1", 1)
    assert symbolic.equal("N", 0) is None
    assert symbolic.equal("N", -1) is False
    assert symbolic.equal("2*N", "N + N") is True
    assert symbolic.less("N", "N + 1") is True
    assert symbolic.less("N", 1) is None
    assert symbolic.less("N", "N") is False


def test_hyphenated_name_is_one_symbol_and_a_spaced_expression_is_not() -> None:
    assert symbolic.sub("past_sequence_length + 1", "past_sequence_length") == 1
    assert symbolic.add("batch-size", "size") != "batch"
    assert symbolic.sub("batch-size", "batch-size") == 0


def test_expression_is_given_up_when_it_gets_long() -> None:
    total: symbolic.Dim | None = 0
    for index in range(60):
        assert total is not None
        total = symbolic.add(total, f"symbol_{index}")
        if total is None:
            return
    pytest.fail("no limit")


@pytest.mark.parametrize("text", [None, "", "?", "-1", "None", "unk", "224", "Unknown"])
def test_text_is_no_name_when_it_only_says_unknown(text: str | None) -> None:
    assert not is_named(text)


def test_same_key_gets_the_same_symbol() -> None:
    symbols = Symbols(taken=["unk__0", "unk__2"])
    assert symbols.keyed("a") == "unk__1"
    assert symbols.fresh() == "unk__3"
    assert symbols.keyed("a") == "unk__1"
    assert symbols.keyed("b") == "unk__4"


@pytest.mark.parametrize(
    "text",
    [
        "9**9**9**9",
        "((((9**9)**9)**9)**9)**9",
        "(N + 1)**999999",
        "(" * 3000 + "N" + ")" * 3000,
        f"Max({', '.join(f'a{i}' for i in range(40))})",
        "*".join(f"({a}+{b})" for a, b in zip("abcdefghijklm", "nopqrstuvwxyz", strict=True)),
    ],
)
def test_text_that_would_take_long_to_read_is_a_name(text: str) -> None:
    assert symbolic.sub(text, text) == 0
    assert symbolic.equal(text, text)
    assert not symbolic.equal(text, "N")
    assert symbolic.is_at_least(text, 0)
