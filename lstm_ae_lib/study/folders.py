"""Whole folders of pictures: restored in this process, or by the workers of a Dask cluster.

The tree is mirrored. What is finished is written down in the target folder, in :data:`JOURNAL`, a line a picture: given again, the
same call restores what is left, and what has changed. Pictures travel to the workers and back, so that no folder need be shared.
"""

import contextlib
import functools
import hashlib
import importlib
import json
import os
import sys
import tempfile
import time
import warnings
from pathlib import Path

from lstm_ae_lib import checks, files, pictures, restoring, weights
from lstm_ae_lib.study import clusters
from lstm_ae_lib.tasks import picture_folder

JOURNAL = ".restored.jsonl"  # each line: name, and what it was made of: SHA-256 of picture and weights, options
IN_FLIGHT = 2  # pictures a worker that are read and sent ahead


def restore_folder(source, target, name: str = restoring.DEFAULT, *, workers: int = 0, scheduler: str = "", quiet: bool = False,
                   engine: str = "", **options) -> dict:
    """Restores all PNG and JPEG pictures in a folder and in the folders below it into another folder, under the same names.

    A picture that cannot be restored takes one line on standard error, and the others go on. Nothing is written in part.

    Args:
        source: the folder; hidden files and folders are left out.
        target: made if it is missing; it must not lie in ``source``, nor the other way round.
        name, engine: of released weights, as for :func:`lstm_ae_lib.restoring.load_restorer`.
        workers: processes, each on its share of the cores, as a Dask cluster on this machine; 0: this process alone.
        scheduler: the address of a Dask cluster in place of them, such as ``"tcp://host:8786"``.
        quiet: no bar.
        **options: ``quality``, ``strength``, ``ensemble`` and ``strict`` of :func:`lstm_ae_lib.restoring.restore_file`.

    Returns ``"restored"``, ``"skipped"`` (finished before), ``"failed"`` (name -> reason) and ``"seconds"``. Raises ``OSError`` for
    a folder that is not there or cannot be written, ``ValueError`` for a folder without pictures or another argument,
    ``ImportError`` where Dask is needed and missing.
    """
    source, target = Path(source), Path(target)
    checks.number(workers, "workers", 0, 1024, whole=True)
    checks.number(options.get("quality", pictures.QUALITY), "quality", 1, 100, whole=True)
    checks.number(options.get("strength", 1), "strength", 0, 1)
    checks.choice(options.get("ensemble", 1), "ensemble", restoring.ENSEMBLES)
    checks.choice(options.get("strict", False), "strict", (True, False))
    if workers and scheduler:
        raise ValueError(f"workers and scheduler exclude each other, got {workers} and {scheduler!r}")
    if not source.is_dir():
        raise NotADirectoryError(f"there is no folder {source}")
    if not target.is_dir() and (target.exists() or target.suffix.lower() in pictures.SUFFIXES):
        raise NotADirectoryError(f"target must be a folder, as the source is, got {target}")
    whole, made = source.resolve(), target.resolve()
    described = weights.describe_released(name)
    if whole == made or whole in made.parents or made in whole.parents:
        raise ValueError(f"one of the folders lies in the other: {source}, {target}")
    if not (names := picture_folder.names_in(source)):
        raise ValueError(f"there is no picture ({', '.join(pictures.SUFFIXES)}) in {source}")
    if options.get("ensemble") == 1:
        options.pop("ensemble")  # the same picture as without it, which has been in the journal longer
    made_with = {"weights": described["sha256"], **options}
    target.mkdir(parents=True, exist_ok=True)
    started, journal = time.monotonic(), _read_journal(target / JOURNAL)
    done = {"restored": 0, "skipped": 0, "failed": {}}
    options = options | {"engine": engine}
    task = functools.partial(restore_content, weights_name=name, sha256=made_with["weights"], options=options)
    with contextlib.ExitStack() as stack:
        log = stack.enter_context(open(target / JOURNAL, "a+b"))
        if log.tell() and (log.seek(-1, os.SEEK_END), log.read())[1] != b"\n":
            log.write(b"\n")  # a killed process has left half a line
        bar = stack.enter_context(_bar(len(names), quiet))
        todo = _to_restore(source, target, names, journal, made_with, done, bar)
        for one, key, outcome in _outcomes(todo, task, workers, scheduler, stack):
            bar.update()
            try:
                if whole in (made := target / one).resolve().parents or (made.exists() and made.samefile(source / one)):
                    raise ValueError(f"{made} is a link to what is read: restore to another folder")
                content, notes = outcome()
                files.write(target / one, content)
                log.write(json.dumps({"name": one, "made_of": key, "bytes": len(content)}).encode() + b"\n")
                log.flush()
                done["restored"] += 1
            except Exception as error:  # of any kind, of a worker's process too: the others go on
                done["failed"][one], notes = str(error) or type(error).__name__, []
                bar.write(f"failed: {one}: {done['failed'][one]}", file=sys.stderr)
            for note in notes:
                bar.write(f"note: {one}: {note}", file=sys.stderr)
    return done | {"seconds": time.monotonic() - started}


def restore_content(content: bytes, suffix: str, weights_name: str, sha256: str, options: dict) -> tuple:
    """The content of a picture's file, restored, in the format of ``suffix``; and what :class:`pictures.PictureWarning` said.

    Raises as :func:`lstm_ae_lib.restoring.restore_file`, and ``RuntimeError`` where the weights of this installation have another
    SHA-256.
    """
    if weights.describe_released(weights_name)["sha256"] != sha256:
        version = importlib.import_module("lstm_ae_lib").__version__
        raise RuntimeError(f"this worker's weights {weights_name} are others than the caller's; it has lstm_ae_lib {version}")
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", pictures.PictureWarning)
        path = Path(folder) / f"restored{suffix}"
        restoring.restore_file(content, path, weights_name, **options)
        return path.read_bytes(), [str(one.message) for one in told if one.category is pictures.PictureWarning]


def _to_restore(source, target, names, journal, made_with, done, bar):
    """One after the other, what is not finished: name, content, and what it is made of. What cannot be read has an error for it."""
    for name in names:
        try:
            content = (source / name).read_bytes()
        except OSError as error:
            content = error
        key = None if isinstance(content, OSError) else {"picture": hashlib.sha256(content).hexdigest(), **made_with}
        entry, made = journal.get(name, {}), target / name
        same = key and entry.get("made_of") == key and made.is_file()
        if same and made.stat().st_size == entry.get("bytes", made.stat().st_size):
            done["skipped"] += 1
            bar.update()
        else:
            yield name, content, key


def _outcomes(todo, task, workers, scheduler, stack):
    """Of each picture: name, what it is made of, and a call that returns what ``task`` did, or raises what it raised."""

    def refuse(error):
        raise error

    if not (workers or scheduler):
        for name, content, key in todo:
            unread = isinstance(content, OSError)
            yield name, key, functools.partial(refuse, content) if unread else functools.partial(task, content, Path(name).suffix)
        return
    client = stack.enter_context(clusters.connected(workers, scheduler))
    from distributed import as_completed

    waiting, running = as_completed(), {}

    def send():
        """Sends the next picture; returns one that could not be read, as it is yielded, or None where there is no more."""
        for name, content, key in todo:
            if isinstance(content, OSError):
                return name, key, functools.partial(refuse, content)
            with warnings.catch_warnings(action="ignore"):  # of "a large graph": what is scattered would die with its worker
                future = client.submit(task, content, Path(name).suffix, pure=False, retries=1)
            running[future.key] = name, key
            waiting.add(future)
            return ()
        return None

    ahead = IN_FLIGHT * max(len(client.scheduler_info(n_workers=-1)["workers"]), 1)
    for _ in range(ahead):
        while refused := send():  # what could not be read takes no place
            yield refused
    for future in waiting:
        yield *running.pop(future.key), future.result
        while refused := send():
            yield refused


def _read_journal(path):
    """Name -> ``made_of`` and, but in old ones, ``bytes``; a line that was cut off, or is something else, is nothing."""
    found = {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else ():
        with contextlib.suppress(ValueError, TypeError, KeyError):
            entry = json.loads(line)
            found[entry["name"]] = {"made_of": entry["made_of"], **entry}
    return found


def _bar(count, quiet):
    import tqdm

    return tqdm.tqdm(total=count, unit=" pictures", disable=quiet or None)
