"""Many runs from one file, one after the other or on a Dask cluster; killed and started again, it goes on where it was."""

import sys
from pathlib import Path

from lstm_ae_lib import checks, paths
from lstm_ae_lib.study import runner, runs


def read_sweep(path) -> dict:
    """Read and check a sweep file (or one of ``data/sweeps``, by its name) before anything runs.

    A YAML file with ``runs`` (each run's name and its own parameters), and if wanted ``parameters`` (of all runs) and
    ``notebooks``, the drivers to execute (default: training and evaluation)::

        parameters: {data: full, minutes: 20}
        runs:
          gauss2-dncnn: {protocol: gauss2, model: dncnn}
          gauss2-unet: {protocol: gauss2, model: unet}

    Returns ``notebooks``, and ``runs``: name -> all its parameters, of the right types. Raises ``FileNotFoundError`` where there is
    no such file; ``ValueError``, which says in which run, for another structure, a name twice or a bad one, or a bad parameter.
    """
    known = paths.data_dir() / "sweeps"
    file = next((found for found in (Path(path), known / f"{path}.yaml") if found.is_file()), None)
    if file is None:
        names = ", ".join(sorted(found.stem for found in known.glob("*.yaml"))) or "none"
        raise FileNotFoundError(f"there is no sweep file {str(path)!r}; those of the study: {names}")
    content = runner.read_yaml(file)
    if not isinstance(content, dict) or not isinstance(content.get("runs"), dict) or not content["runs"]:
        raise ValueError(f"{file.name} must hold runs: names, each with its parameters")
    if wrong := sorted(set(content) - {"runs", "parameters", "notebooks"}):
        raise ValueError(f"{file.name} holds {', '.join(map(str, wrong))}; allowed are runs, parameters, notebooks")
    shared, notebooks = content.get("parameters") or {}, content.get("notebooks") or runner.CHAIN
    if not isinstance(notebooks, list | tuple) or not all(isinstance(name, str) for name in notebooks):
        raise ValueError(f"{file.name}: notebooks must be a list of names, got {notebooks!r}")
    notebooks = tuple(new for name in notebooks if (new := runner.RENAMED.get(name, name)))
    wanted = {}
    for name, own in content["runs"].items():
        try:
            checks.file_name(name, "a run's name")
            if not isinstance(own or {}, dict) or not isinstance(shared, dict):
                raise ValueError(f"parameters must be names and values, got {own!r}")
            together = {**shared, **(own or {})}
            if wrong := [key for key in together if not isinstance(key, str)]:
                raise ValueError(f"parameters must have names, got {wrong[0]!r}")
            if "run_name" in together:
                raise ValueError("run_name is not a parameter here: a run's name stands before its parameters")
            taken = runner.check_parameters({**together, "run_name": name}, notebooks)
        except ValueError as error:
            raise type(error)(f"{file.name}, run {name!r}: {error}") from None
        wanted[name] = {key: value for values in taken.values() for key, value in values.items() if key != "run_name"}
    return {"notebooks": notebooks, "runs": wanted}


def run_sweep(path, quiet: bool = False, workers: int = 0, scheduler: str = "") -> dict:
    """Execute the runs of a sweep file: in their order, or as many at once as a Dask cluster has workers.

    A run that is finished is skipped; one that was interrupted or failed goes on from its last checkpoint; one that fails is
    noted, and the next one begins. So the same command, given again after anything, does what is left to do. ``workers`` and
    ``scheduler`` are as for :func:`lstm_ae_lib.study.clusters.connected`; without them this process has the runs one by one.

    Returns name -> ``"finished"``, ``"was finished"``, ``"interrupted"`` or ``"failed: ..."``. Raises as :func:`read_sweep`,
    ``ValueError`` for a run of that name that was recorded with other parameters; nothing has run then, and nothing is
    overwritten. With a cluster also as :func:`lstm_ae_lib.study.cluster_runs.execute_all`.
    """
    sweep = read_sweep(path)
    for name, parameters in sweep["runs"].items():
        _refuse_another(name, parameters)
    wanted, outcomes = sweep["runs"], {name: "was finished" for name in sweep["runs"] if _status(name) == "finished"}
    if workers or scheduler:
        from lstm_ae_lib.study import cluster_runs

        left = {name: parameters for name, parameters in wanted.items() if name not in outcomes}
        ended = cluster_runs.execute_all(left, sweep["notebooks"], workers, scheduler, quiet) if left else ()
    else:
        ended = _one_by_one(wanted, sweep["notebooks"], quiet)
    for name, outcome in ended:
        outcomes[name] = outcome
        print(f"{name}: {outcome}", file=sys.stderr)
    return {name: outcomes[name] for name in wanted}


def run_one(name: str, parameters: dict, notebooks, quiet: bool = False) -> str:
    """Execute a run, or go on with it: ``"finished"`` or ``"was finished"``. Raises as
    :func:`lstm_ae_lib.study.runner.run_chain`."""
    if (before := _status(name)) == "finished":
        return "was finished"
    if before:
        runner.resume_chain(name, quiet=quiet)
    else:
        runner.run_chain(name, parameters, notebooks, quiet=quiet)
    return "finished"


def _one_by_one(wanted, notebooks, quiet):
    for place, (name, parameters) in enumerate(wanted.items(), 1):
        if (before := _status(name)) != "finished":
            print(f"run {place} of {len(wanted)}: {name}" + (f" ({before}: goes on)" if before else ""), file=sys.stderr)
        try:
            yield name, run_one(name, parameters, notebooks, quiet)
        except (RuntimeError, OSError) as error:
            yield name, f"failed: {error}"


def _status(name):
    run = runs.Run(name)
    return runs.status(run.record) if run.path("run.json").is_file() else None


def _refuse_another(name, parameters):
    run = runs.Run(name)
    if not run.path("run.json").is_file():
        if not run.is_free():
            raise ValueError(f"{run.folder} exists and is no run; nothing was run")
        return
    record = run.record
    asked = {key: value for key, value in record.get("asked", {}).items() if key != "run_name"}
    if record.get("runner") != "lstm_ae_lib" or asked != parameters:
        different = [
            f"{key}: {asked.get(key, 'default')!r} there, {parameters.get(key, 'default')!r} here"
            for key in sorted({*asked, *parameters})
            if asked.get(key) != parameters.get(key)
        ]
        raise ValueError(
            f"the run {name!r} was recorded with other parameters ({'; '.join(different) or 'by a notebook'}); choose another "
            "name, or delete its folder. Nothing was run"
        )
