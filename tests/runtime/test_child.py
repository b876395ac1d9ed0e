"""Child: answers, errors, crashes and time limits of a process beside this one."""

from __future__ import annotations

import os
import sys
import time
from contextlib import closing

import pytest

from onnxopt.graph.symbolic import add
from onnxopt.runtime.child import Child, ChildEndedError, all_memory, fair_memory
from onnxopt.runtime.library import CannotRunError
from onnxopt.runtime.session import open_session


def test_child_answers_when_called_twice() -> None:
    with closing(Child()) as child:
        assert child.call(add, 1, 2) == 3
        assert child.call(os.getpid) != os.getpid()


def test_error_arrives_when_the_function_raises_it() -> None:
    with closing(Child()) as child:
        with pytest.raises(CannotRunError, match="protobuf parsing failed"):
            child.call(open_session, b"no model")
        assert child.call(add, 1, 1) == 2


def test_signal_is_named_when_the_child_crashes() -> None:
    with closing(Child()) as child, pytest.raises(ChildEndedError, match=r"crashed \(SIGABRT\)"):
        child.call(os.abort)


def test_any_error_arrives_with_its_traceback() -> None:
    with closing(Child()) as child:
        with pytest.raises(ZeroDivisionError) as raised:
            child.call(divmod, 1, 0)
        assert "in serve" in raised.value.__notes__[0]
        with pytest.raises(UnicodeDecodeError):
            child.call(b"\xff".decode)


def test_exit_is_no_crash_when_the_child_leaves_by_itself() -> None:
    with closing(Child()) as child, pytest.raises(ChildEndedError, match="exit code 5") as raised:
        child.call(os._exit, 5)
    assert not raised.value.crashed


@pytest.mark.skipif(sys.platform != "linux", reason="no such limit elsewhere")
def test_allocation_fails_when_it_is_beyond_the_limit() -> None:
    limited = Child(memory=1 << 30)
    with closing(limited), pytest.raises(MemoryError):
        limited.call(bytes, 2 << 30)


def test_child_is_stopped_when_it_takes_too_long() -> None:
    limited = Child(seconds=0.5)
    with closing(limited), pytest.raises(ChildEndedError, match=r"took more than 0\.5 s"):
        limited.call(time.sleep, 60)


def test_small_models_may_take_little_memory_and_large_ones_all() -> None:
    everything = all_memory()
    assert everything is not None
    assert fair_memory(0) == min(everything, 2 << 30)
    assert fair_memory(1 << 50) == everything
