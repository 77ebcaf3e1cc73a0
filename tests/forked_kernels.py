"""A plugin for the notebooks' regression test, ``pytest --nbval -p forked_kernels``: kernels start at once."""

import processes
import pytest


def pytest_configure():
    processes.fork_kernels(pytest.MonkeyPatch())
