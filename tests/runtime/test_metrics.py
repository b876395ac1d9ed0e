import numpy as np
import pytest

from onnxopt.core.errors import InvalidInputError
from onnxopt.runtime.parity.metrics import METRICS, find_metric, read_labels, score

LOGITS = np.array([[3.0, 1, 0], [0, 2, 1], [0, 1, 2], [5, 4, 3]])
LABELS = np.array([0, 1, 1, 2])


@pytest.mark.parametrize(
    ("name", "expected"),
    [("top1", 0.5), ("accuracy", 0.5), ("top5", 1.0), ("f1", (2 / 3 + 2 / 3 + 0) / 3)],
)
def test_scores_of_classes(name: str, expected: float):
    assert score(name, METRICS[name], LOGITS, LABELS) == pytest.approx(expected)


def test_scores_of_numbers():
    values, labels = np.array([[1.0], [2.0]]), np.array([1.0, 4.0])
    assert score("mse", METRICS["mse"], values, labels) == 2
    assert score("mae", METRICS["mae"], values, labels) == 1
    assert score("cosine", METRICS["cosine"], LOGITS, 2 * LOGITS) == pytest.approx(1)


def test_the_metric_follows_from_the_labels_when_none_is_named():
    assert find_metric(None, LOGITS, LABELS)[0] == "top1"
    assert find_metric(None, LOGITS, LOGITS)[0] == "mse"


def test_labels_are_read_from_archives_by_name(tmp_path):
    np.savez(tmp_path / "a.npz", labels=LABELS, other=LOGITS)
    np.testing.assert_array_equal(read_labels(tmp_path / "a.npz"), LABELS)
    np.savez(tmp_path / "b.npz", first=LABELS, other=LOGITS)
    with pytest.raises(InvalidInputError, match="name the labels' array 'labels'"):
        read_labels(tmp_path / "b.npz")


@pytest.mark.parametrize(
    ("name", "labels", "message"),
    [
        ("top1", LABELS[:3], "3 labels for 4 predictions"),
        ("top1", np.zeros((4, 2, 1, 1)), r"needs labels of shape \[4\]"),
        ("mse", LABELS, "fails on predictions"),
    ],
)
def test_labels_that_do_not_fit_are_refused(name: str, labels: np.ndarray, message: str):
    with pytest.raises(InvalidInputError, match=message):
        score(name, METRICS[name], LOGITS, labels)


def test_labels_are_read_from_text_and_no_file_asks_to_be_trusted(tmp_path):
    path = tmp_path / "labels.txt"
    path.write_text("1\n0\n2\n")
    assert read_labels(path).tolist() == [1, 0, 2]
    other = path.rename(tmp_path / "labels.csv")
    with pytest.raises(InvalidInputError, match=r"give a \.npy, \.npz or \.txt file") as error:
        read_labels(other)
    assert "pickle" not in str(error.value)
