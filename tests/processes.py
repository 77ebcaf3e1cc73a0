"""Processes of Python for tests, forked from one that has imported TensorFlow and Keras: each starts in a tenth of a second
instead of three. What is tested about starting and importing needs a process of its own: ``subprocess``."""

import gc
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import time
from multiprocessing import forkserver
from pathlib import Path

import pytest

PRELOADED = ["keras", "nbformat", "numba", "pytest", "scipy.fft", "scipy.ndimage", "tensorflow"]


def run(arguments, *, cwd=None, env=None, timeout=300) -> subprocess.CompletedProcess:
    """What ``subprocess.run([sys.executable, *arguments], capture_output=True, text=True)`` returns; ``arguments`` begin with
    ``-c``, ``-m`` or a file. The process does not run what was registered with ``atexit``."""
    cwd, env = str(cwd or Path.cwd()), dict(env or os.environ)
    if sys.platform != "linux":  # elsewhere, libraries may not be forked
        command = [sys.executable, *map(str, arguments)]
        return subprocess.run(command, cwd=cwd, env=env, timeout=timeout, capture_output=True, text=True)
    with tempfile.TemporaryDirectory() as folder:
        outputs = [os.path.join(folder, name) for name in ("stdout", "stderr")]
        process = _start(arguments, outputs, cwd, env)
        process.join(timeout)
        if process.exitcode is None:
            process.kill()
            raise subprocess.TimeoutExpired(arguments, timeout)
        said = [Path(path).read_text() if os.path.exists(path) else "" for path in outputs]
    return subprocess.CompletedProcess(arguments, process.exitcode, *said)


class Kernel:
    """A Jupyter kernel, forked too: what ``jupyter_client`` asks of ``subprocess.Popen``. :func:`fork_kernels` puts it there."""

    stdin = stdout = stderr = None

    def __init__(self, command, cwd=None, env=None, **_):
        env = dict(env or os.environ) | {"MPLBACKEND": "module://matplotlib_inline.backend_inline"}
        self.process = _start(command[1:], [os.devnull, os.devnull], str(cwd or Path.cwd()), env)
        self.pid = self.process.pid
        while self.poll() is None and os.getpgid(self.pid) != self.pid:  # signals go to its group: not before it has its own
            time.sleep(0.01)

    def poll(self):
        return self.process.exitcode

    def wait(self, timeout=None):
        self.process.join(timeout)
        return self.poll()

    def send_signal(self, number):
        os.kill(self.pid, number)

    def kill(self):
        self.send_signal(signal.SIGKILL)

    def terminate(self):
        self.send_signal(signal.SIGTERM)


def fork_kernels(patch) -> None:
    """From here on this process's kernels are forked; ``patch`` is pytest's ``monkeypatch``."""
    if sys.platform == "linux":
        patch.setattr("jupyter_client.provisioning.local_provisioner.launch_kernel", Kernel)


def _start(arguments, outputs, cwd, env):
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    process = context.Process(target=_work, args=([str(word) for word in arguments], outputs, cwd, env))
    process.start()
    return process


def _work(arguments, outputs, cwd, env):
    gc.freeze()  # what is imported already need not be looked at, and graphs (see conftest.py) not often
    gc.set_threshold(100_000, 50, 100)
    # What it starts is forked from where it came from itself: not from a second process that would import all of it again.
    forkserver._forkserver.ensure_running = lambda: None
    os.setsid()
    for descriptor, path in enumerate(outputs, 1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    if "MPLBACKEND" in env:  # which Matplotlib reads when it is imported, and Keras has done that
        import matplotlib

        matplotlib.rcParams["backend"] = env["MPLBACKEND"]
    kind, what, *others = [*arguments, ""] if arguments[0] not in ("-c", "-m") else arguments
    sys.path[:0] = [*filter(None, env.get("PYTHONPATH", "").split(os.pathsep)), ""]
    if kind == "-c":
        sys.argv = ["-c", *others]
        exec(compile(what, "<string>", "exec"), {"__name__": "__main__"})
    elif kind == "-m":
        sys.argv = [what, *others]
        if others[0] in ("run", "sweep"):
            sys.path.append(os.path.dirname(__file__))  # where the kernels find this module
            fork_kernels(pytest.MonkeyPatch())
        runpy.run_module(what, run_name="__main__", alter_sys=True)
    else:
        sys.argv = list(arguments)
        sys.path.insert(0, os.path.dirname(kind))
        runpy.run_path(kind, run_name="__main__")
