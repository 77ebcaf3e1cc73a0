"""Dask: a cluster of processes on this machine, each on its share of the cores, or one of the user's own."""

import contextlib
import logging
import os

from lstm_ae_lib import checks
from lstm_ae_lib.fast import threads


@contextlib.contextmanager
def connected(workers: int = 0, scheduler: str = ""):
    """A ``distributed.Client``, while the ``with`` statement lasts: of a cluster of ``workers`` processes on this machine, or of
    the one at ``scheduler``, such as ``"tcp://host:8786"``.

    Raises ``ValueError`` for both or neither, ``ImportError`` without Dask, ``OSError`` where no scheduler answers in 20 seconds,
    ``RuntimeError`` for a worker whose ``lstm_ae_lib`` has another version; one that comes later is refused too.
    """
    checks.number(workers, "workers", 0, 1024, whole=True)
    if bool(workers) == bool(scheduler):
        raise ValueError(f"workers and scheduler exclude each other, got {workers} and {scheduler!r}")
    try:
        import distributed
    except ModuleNotFoundError:
        raise ImportError("several workers need Dask: pip install 'lstm_ae_lib[scale]'") from None
    from lstm_ae_lib import __version__
    from lstm_ae_lib.study.cluster_plugin import Prepare

    logging.getLogger("distributed").setLevel(logging.CRITICAL)  # what goes wrong is said once, by whoever asked
    with contextlib.ExitStack() as stack:
        address = scheduler or stack.enter_context(_local_cluster(workers))
        client = stack.enter_context(distributed.Client(address, timeout="20s"))
        _refuse_others(client, __version__)
        if not scheduler:
            _share_cores(client, workers)
        client.register_plugin(Prepare(__version__, local=not scheduler))
        yield client


def _local_cluster(workers):
    import distributed

    options = {"threads_per_worker": 1, "host": "127.0.0.1", "silence_logs": 50, "dashboard_address": "127.0.0.1:0"}
    return distributed.LocalCluster(n_workers=workers, **options)


def _share_cores(client, workers):
    if not hasattr(os, "sched_setaffinity"):
        return  # a core a worker, then
    own = sorted(os.sched_getaffinity(0))
    size = max(threads.cores() // workers, 1)
    for place, address in enumerate(client.scheduler_info(n_workers=-1)["workers"]):
        share = [own[(place * size + core) % len(own)] for core in range(size)]
        for nanny in (True, False):  # a worker that is started again inherits its nanny's
            client.run(os.sched_setaffinity, 0, share, workers=[address], nanny=nanny)


def _refuse_others(client, version):
    def find_version():  # this goes to the worker as it stands here, whatever it has
        try:
            import lstm_ae_lib
        except ImportError:
            return "none"
        return lstm_ae_lib.__version__

    found = client.run(find_version)
    names = {address: worker["name"] for address, worker in client.scheduler_info(n_workers=-1)["workers"].items()}
    if others := [f"{names.get(address, address)} has {one}" for address, one in found.items() if one != version]:
        raise RuntimeError(f"here is lstm_ae_lib {version}, but the worker {'; '.join(others)}: install the same version there")
