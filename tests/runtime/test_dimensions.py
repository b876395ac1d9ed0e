import pytest

from onnxopt.runtime.inputs.dimensions import evaluate, free_symbols, is_placeholder


@pytest.mark.parametrize("text", [None, "", "?", "-1", "0", "None", "unk", "dynamic"])
def test_placeholder_names_no_size(text):
    assert is_placeholder(text)


@pytest.mark.parametrize("text", ["batch", "N", "unk__12", "p2o.DynamicDimension.0", "s0"])
def test_name_is_no_placeholder(text):
    assert not is_placeholder(text)
    assert free_symbols(text) == (text,)


def test_hyphen_or_slash_inside_a_name_is_no_operator():
    assert free_symbols("batch-size") == ("batch-size",)
    assert evaluate("batch-size", {"batch-size": 3}) == 3


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("past_sequence_length + sequence_length", 11),
        ("2*sequence_length - 1", 15),
        ("(sequence_length + 1)//2", 4),
        ("Max(1, sequence_length//16)", 1),
        ("sequence_length", 8),
    ],
)
def test_expression_is_evaluated(text, expected):
    sizes = {"past_sequence_length": 3, "sequence_length": 8}
    assert evaluate(text, sizes) == expected


def test_expression_without_a_size_for_its_symbol_is_unknown():
    assert evaluate("past + sequence", {"past": 3}) is None
    assert evaluate("sequence // zero", {"sequence": 3, "zero": 0}) is None


def test_code_in_a_dimension_is_never_run():
    text = "__import__('os').getpid() + batch"
    assert evaluate(text, {"batch": 1, "__import__": 1, "os": 1}) is None
