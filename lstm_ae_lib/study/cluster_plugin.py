"""What a Dask worker does first: see that it fits, and how many cores it has for each thing that it does."""

import os
import signal

import distributed

import lstm_ae_lib
from lstm_ae_lib.fast import threads


class Prepare(distributed.WorkerPlugin):
    """Sets the cores of a worker's tasks; ``RuntimeError`` where its ``lstm_ae_lib`` has another version than the client's.

    A worker that is confined to some of the machine's cores, as a local one or one of Slurm's, shares these among its threads; any
    other has a core a thread. A ``local`` one shares the caller's terminal: an interrupt there is the caller's to deal with.
    """

    name = "lstm_ae_lib"

    def __init__(self, version: str, local: bool):
        self.version, self.local = version, local

    def setup(self, worker):
        if lstm_ae_lib.__version__ != self.version:
            raise RuntimeError(f"the worker {worker.name} has lstm_ae_lib {lstm_ae_lib.__version__}, the client {self.version}")
        os.environ.pop("LSTM_AE_CORES", None)
        confined = threads.cores() if self.local or threads.cores() < os.cpu_count() else 0
        os.environ["LSTM_AE_CORES"] = str(max(confined // worker.state.nthreads, 1))
        if self.local:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
