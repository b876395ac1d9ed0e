"""Child: answers, errors, crashes and time limits of a process beside this one."""

from __future__ import annotations

import os
import time

import pytest

from onnxopt.core.errors import OnnxOptError
from onnxopt.graph.symbolic import add
from onnxopt.runtime.child import Child, ChildEndedError
from onnxopt.runtime.session import CannotRunError, open_session


def test_child_answers_when_called_twice() -> None:
    with Child() as child:
        assert child.call(add, 1, 2) == 3
        assert child.call(os.getpid) != os.getpid()


def test_error_arrives_when_the_function_raises_it() -> None:
    with Child() as child:
        with pytest.raises(CannotRunError, match="protobuf parsing failed"):
            child.call(open_session, b"no model")
        assert child.call(add, 1, 1) == 2


def test_signal_is_named_when_the_child_crashes() -> None:
    with Child() as child, pytest.raises(ChildEndedError, match=r"crashed \(SIGABRT\)"):
        child.call(os.abort)


def test_last_line_is_told_when_the_child_ends_otherwise() -> None:
    with Child() as child, pytest.raises(ChildEndedError, match="exit code 1: ZeroDivisionError"):
        child.call(divmod, 1, 0)


def test_child_is_stopped_when_it_takes_too_long() -> None:
    with Child() as child, pytest.raises(OnnxOptError, match=r"took more than 0\.5 s"):
        child.call_within(0.5, time.sleep, 60)
