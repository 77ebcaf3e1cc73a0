"""The command that executes stale lessons, in a checkout of the tests' own with lessons of a few lines."""

import base64
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import numpy as np
import PIL.Image
import psutil
import pytest

from lstm_ae_lib import __main__, paths
from lstm_ae_lib.study import notebooks

COLAB = "import sys\nif 'google.colab' in sys.modules:\n    print('https://github.com/YOUR-ACCOUNT/study')"
READS = """import json
import pathlib
from lstm_ae_lib import greeting
data = pathlib.Path('..') / 'data'
json.loads((data / 'metrics.json').read_text())
runs = [json.loads(path.read_text()) for path in sorted((data / 'published').glob('*/run.json'))]
print(greeting.hello(), len(runs), (data / 'missing.json').exists())"""
LEAVES = "import os, pathlib\npathlib.Path(os.environ['LSTM_AE_DATA'], 'left.txt').write_text('from 02')"
NEEDS = "import os, pathlib\nprint(pathlib.Path(os.environ['LSTM_AE_DATA'], 'left.txt').read_text())"


def write_lesson(root, name, *cells, reads="nothing"):
    cells = [nbformat.v4.new_markdown_cell(f"# A lesson\n\n**Reads** {reads} · **Writes** nothing"), *cells]
    cells = [nbformat.v4.new_code_cell(cell) if isinstance(cell, str) else cell for cell in cells]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), root / "notebooks" / f"{name}.ipynb")


def write_checkout(root):
    for folder in ("notebooks", "lstm_ae_lib", "data/raw", *(f"data/published/{name}" for name in "abc")):
        (root / folder).mkdir(parents=True)
    (root / "lstm_ae_lib/__init__.py").write_text('"""A library."""\n')
    (root / "lstm_ae_lib/greeting.py").write_text('"""Greets."""\n\n\ndef hello():\n    """Says it."""\n    return "hello"\n')
    (root / "lstm_ae_lib/other.py").write_text("VALUE = 1\n")
    (root / "data/metrics.json").write_text("{}")
    (root / "data/unread.json").write_text("{}")
    for name in "abc":
        (root / f"data/published/{name}/run.json").write_text("{}")
    write_lesson(root, "01_reads", COLAB, READS)
    write_lesson(root, "02_leaves", LEAVES)
    write_lesson(root, "03_needs", NEEDS, reads="what [lesson 2](02_leaves.ipynb) leaves, never [lesson 9](09_gone.ipynb)")
    write_lesson(root, "90_driver", "raise RuntimeError('drivers are not executed')")


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """Three lessons, none of them executed, and a driver."""
    write_checkout(tmp_path)
    monkeypatch.setattr(paths, "notebooks_dir", lambda: tmp_path / "notebooks")
    return tmp_path


@pytest.fixture(scope="module")
def executed_once(tmp_path_factory):
    root = tmp_path_factory.mktemp("once")
    write_checkout(root)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paths, "notebooks_dir", lambda: root / "notebooks")
        assert notebooks.refresh() == ["01_reads", "02_leaves", "03_needs"]
    return root


@pytest.fixture
def executed(executed_once, tmp_path, monkeypatch):
    """The same, executed."""
    shutil.copytree(executed_once, tmp_path, dirs_exist_ok=True)
    monkeypatch.setattr(paths, "notebooks_dir", lambda: tmp_path / "notebooks")
    return tmp_path


def read(root, name):
    return json.loads((root / f"notebooks/{name}.ipynb").read_text())


def contents(root):
    return {path.name: path.read_bytes() for path in (root / "notebooks").iterdir()}


def edit(path, old, new):
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))


# --- what is stale ----------------------------------------------------------------------------------------------------


def test_what_a_lesson_read_stands_in_it(executed):
    content = read(executed, "01_reads")
    assert set(content["metadata"]) == {"kernelspec", "lstm_ae_lib"}
    made_from = content["metadata"]["lstm_ae_lib"]
    assert list(made_from["reads"]) == [
        "data/metrics.json", "data/published/", "data/published/*/run.json", "lstm_ae_lib/__init__.py", "lstm_ae_lib/greeting.py",
    ]  # fmt: skip
    assert all(re.fullmatch("[0-9a-f]{16}", text) for text in [made_from["hash"], *made_from["reads"].values()])
    assert content["cells"][-1]["outputs"][0]["text"] == ["hello 3 False\n"]
    assert list(read(executed, "03_needs")["metadata"]["lstm_ae_lib"]["reads"]) == ["notebooks/02_leaves.ipynb"]


def test_nothing_is_executed_where_nothing_is_stale(executed, capsys):
    before = contents(executed)
    assert notebooks.stale() == {} and notebooks.refresh() == []
    assert __main__.main(["notebooks"]) == 0 and capsys.readouterr().out == "nothing is stale\n"
    assert contents(executed) == before


def test_a_lesson_that_was_never_executed_is_stale(checkout):
    assert set(notebooks.stale()) == {"01_reads", "02_leaves", "03_needs"}
    assert notebooks.stale(["02_leaves"]) == {"02_leaves": "it has not been executed by `make notebooks`"}


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("lstm_ae_lib/greeting.py", '"""Greets."""', '"""Greets people."""  # in English'),
        ("lstm_ae_lib/greeting.py", '    """Says it."""\n', ""),
        ("lstm_ae_lib/greeting.py", 'return "hello"', 'return (\n        "hello"\n    )'),
        ("lstm_ae_lib/other.py", "VALUE = 1", "VALUE = 2"),
        ("data/unread.json", "{}", "[1]"),
        ("notebooks/01_reads.ipynb", "A lesson", "A better lesson"),
        ("notebooks/01_reads.ipynb", "YOUR-ACCOUNT", "somebody"),
        ("notebooks/01_reads.ipynb", "hello 3 False", "hello 4 False"),
    ],
)
def test_what_changes_no_output_makes_nothing_stale(executed, file, old, new):
    edit(executed / file, old, new)
    assert notebooks.stale() == {}


@pytest.mark.parametrize(
    ("file", "old", "new", "reason"),
    [
        ("lstm_ae_lib/greeting.py", 'return "hello"', 'return "good day"', "lstm_ae_lib/greeting.py changed"),
        ("lstm_ae_lib/greeting.py", 'return "hello"', 'return ""', "lstm_ae_lib/greeting.py changed"),
        ("data/metrics.json", "{}", "[1]", "data/metrics.json changed"),
        ("data/published/b/run.json", "{}", "[1]", "data/published/*/run.json changed"),
        ("notebooks/01_reads.ipynb", "len(runs)", "len(runs) + 1", "its code has changed"),
    ],
)
def test_what_may_change_an_output_makes_it_stale(executed, file, old, new, reason):
    edit(executed / file, old, new)
    assert notebooks.stale() == {"01_reads": reason}


def test_a_record_more_or_less_makes_it_stale(executed):
    (executed / "data/published/d").mkdir()
    (executed / "data/published/d/run.json").write_text("{}")
    assert notebooks.stale() == {"01_reads": "data/published/, data/published/*/run.json changed"}
    assert notebooks.refresh() == ["01_reads"] and notebooks.stale() == {}
    assert read(executed, "01_reads")["cells"][-1]["outputs"][0]["text"] == ["hello 4 False\n"]
    shutil.rmtree(executed / "data/published/d")
    (executed / "data/metrics.json").unlink()
    assert notebooks.stale() == {"01_reads": "data/metrics.json, data/published/, data/published/*/run.json changed"}


def test_a_lesson_is_stale_with_the_one_that_it_reads(executed):
    edit(executed / "notebooks/02_leaves.ipynb", "from 02", "by 02")
    assert notebooks.stale() == {"02_leaves": "its code has changed", "03_needs": "notebooks/02_leaves.ipynb changed"}
    assert notebooks.refresh() == ["02_leaves", "03_needs"]
    assert read(executed, "03_needs")["cells"][1]["outputs"][0]["text"] == ["by 02\n"]


def test_what_a_python_module_means_does_not_depend_on_pythons_version():
    """The hash of a source with what versions read differently: parts of f-strings, type parameters, empty fields."""
    source = 'def f(x: int = 1, *, y=()) -> None:\n    "Says."\n    return f"{x:{y}.3g}{x!r:>{x}}" + "" + u"a"\n'
    assert notebooks._short(notebooks._meaning(source)) == "730834f5d2acee4d"
    assert notebooks._meaning('["", "a"]') != notebooks._meaning('["a"]')


# --- executing --------------------------------------------------------------------------------------------------------


def test_outputs_counts_and_tags_stay_and_nothing_of_the_machine(checkout):
    cell = nbformat.v4.new_code_cell("share = 0.5", metadata={"tags": ["parameters"], "collapsed": True})
    write_lesson(checkout, "10_works", cell, "print('share', share)")
    assert notebooks.refresh(["10_works", "10_works"]) == ["10_works"]
    content = read(checkout, "10_works")
    assert content["cells"][1]["metadata"] == {"tags": ["parameters"]}
    assert content["cells"][2]["metadata"] == {} and content["cells"][2]["execution_count"] == 2
    assert content["cells"][2]["outputs"][0]["text"] == ["share 0.5\n"]
    assert content["metadata"]["kernelspec"] == {"display_name": "Python 3", "language": "python", "name": "python3"}
    assert set(content["metadata"]) == {"kernelspec", "lstm_ae_lib"}


def test_what_a_lesson_needs_is_made_anew_and_not_written(executed):
    edit(executed / "notebooks/03_needs.ipynb", "from 02", "what it said")
    before = contents(executed)
    assert notebooks.refresh(["03_needs"], everything=True) == ["03_needs"]
    after = contents(executed)
    assert [name for name in before if before[name] != after[name]] == ["03_needs.ipynb"]
    assert read(executed, "03_needs")["cells"][1]["outputs"][0]["text"] == ["from 02\n"]


def test_a_lesson_sees_only_what_it_says_it_reads(checkout):
    write_lesson(checkout, "03_needs", NEEDS, reads="something")
    with pytest.raises(RuntimeError, match="^03_needs failed: FileNotFoundError: .*left.txt"):
        notebooks.refresh(["02_leaves", "03_needs"], jobs=1)


def test_failing_lessons_are_named_and_stay_and_the_others_are_done(checkout, capsys):
    write_lesson(checkout, "02_leaves", "raise RuntimeError('out of luck')")
    write_lesson(checkout, "04_dies", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    before = contents(checkout)
    assert __main__.main(["notebooks"]) == 1
    said = "error: 02_leaves failed: RuntimeError: out of luck\n03_needs failed: it needs 02_leaves\n04_dies failed: DeadKernel"
    assert said in capsys.readouterr().err
    after = contents(checkout)
    assert [name for name in before if before[name] != after[name]] == ["01_reads.ipynb"]
    assert set(notebooks.stale()) == {"02_leaves", "03_needs", "04_dies"}


def test_two_are_executed_side_by_side(checkout):
    """Each waits for the other one."""
    for mine, other in ("ab", "ba"):
        path = str(checkout / "met_")
        cell = f"import os, pathlib, time\npathlib.Path({path + mine!r}).touch()\nend = time.monotonic() + 120\n"
        cell += f"while not pathlib.Path({path + other!r}).exists():\n    assert time.monotonic() < end\n    time.sleep(0.05)\n"
        write_lesson(checkout, f"1{mine}_meets", cell + "print(os.environ.get('OMP_NUM_THREADS') is not None)")
    assert notebooks.refresh(["1a_meets", "1b_meets"], jobs=2) == ["1a_meets", "1b_meets"]
    assert read(checkout, "1a_meets")["cells"][1]["outputs"][0]["text"] == ["True\n"]


def test_a_lesson_that_is_edited_meanwhile_is_not_overwritten(checkout):
    write_lesson(checkout, "04_edits", "open('04_edits.ipynb', 'a').write(' ')")
    with pytest.raises(RuntimeError, match="^04_edits failed: it was edited while it was executed; execute it again$"):
        notebooks.refresh(["04_edits"])
    assert "lstm_ae_lib" not in read(checkout, "04_edits")["metadata"]


def test_a_file_that_changes_meanwhile_leaves_the_lesson_stale(checkout):
    cell = "import pathlib\nfile = pathlib.Path('../data/metrics.json')\nfile.read_text()\nfile.write_text('[]')"
    write_lesson(checkout, "04_writes", cell)
    assert notebooks.refresh(["04_writes"]) == ["04_writes"]
    assert notebooks.stale(["04_writes"]) == {"04_writes": "data/metrics.json changed"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"names": ["01_reads", "90_driver"]}, "90_driver: drivers are committed without outputs; `python -m lstm_ae_lib run`"),
        ({"names": ["04_gone"]}, "lesson must be one of 01_reads, 02_leaves, 03_needs; got '04_gone'"),
        ({"jobs": 0}, "jobs must be a whole number from 1 to 64, got 0"),
    ],
)
def test_wrong_arguments_stop_it_before_anything_runs(checkout, arguments, message):
    before = contents(checkout)
    with pytest.raises(ValueError, match=message):
        notebooks.refresh(**arguments)
    assert contents(checkout) == before


def test_lessons_that_read_each_other_are_refused(checkout):
    write_lesson(checkout, "02_leaves", LEAVES, reads="[3](03_needs.ipynb)")
    with pytest.raises(ValueError, match="lessons read each other's results: 0._[a-z]+ <- 0._[a-z]+ <- 0"):
        notebooks.refresh()


def test_an_interruption_ends_the_kernels_and_keeps_what_is_done(checkout):
    started = checkout / "started"
    write_lesson(checkout, "04_sleeps", f"import os, time\nopen({str(started)!r}, 'w').write(str(os.getpid()))\ntime.sleep(600)")
    code = f"""
import pathlib, signal, sys
from lstm_ae_lib import __main__, paths
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's job in the background ignores it
paths.notebooks_dir = lambda: pathlib.Path({str(checkout / "notebooks")!r})
raise SystemExit(__main__.main(["notebooks", "02_leaves", "04_sleeps", "--jobs", "1"]))
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(__main__.__file__).parent.parent)}
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True, env=environment)
    deadline = time.monotonic() + 300
    while not (started.exists() and started.read_text()):
        assert time.monotonic() < deadline and process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130 and re.fullmatch(r"02_leaves: \d+ s\ninterrupted\n", errors), errors
    assert not psutil.pid_exists(int(started.read_text())) and set(notebooks.stale(["02_leaves", "04_sleeps"])) == {"04_sleeps"}


# --- figures ----------------------------------------------------------------------------------------------------------


def test_figures_keep_their_pixels_in_fewer_bytes():
    def encoded(image):
        content = io.BytesIO()
        PIL.Image.fromarray(image).save(content, "PNG")
        return base64.b64encode(content.getvalue()).decode()

    image = np.random.default_rng(0).integers(0, 256, (80, 90, 4), np.uint8)
    image[..., 3] = 255
    smaller = notebooks._smaller(encoded(image))
    assert len(smaller) < len(encoded(image))
    np.testing.assert_array_equal(PIL.Image.open(io.BytesIO(base64.b64decode(smaller))), image[..., :3])
    image[0, 0, 3] = 7
    np.testing.assert_array_equal(PIL.Image.open(io.BytesIO(base64.b64decode(notebooks._smaller(encoded(image))))), image)


def test_a_drawing_takes_256_colours():
    """Smooth edges between white and two colours, as lines have them: looks the same in half the bytes."""
    edge = np.linspace(0, 1, 400)[None, :, None] * np.ones((100, 1, 1))
    drawing = np.where(np.arange(100)[:, None, None] < 50, 255 - edge * [200, 20, 90], 255 - edge * [10, 200, 150])
    drawing = np.rint(drawing + np.random.default_rng(0).integers(0, 2, drawing.shape)).clip(0, 255).astype(np.uint8)
    content = io.BytesIO()
    PIL.Image.fromarray(drawing).save(content, "PNG", optimize=True)
    smaller = base64.b64decode(notebooks._smaller(base64.b64encode(content.getvalue()).decode()))
    assert len(smaller) < 0.6 * len(content.getvalue())
    seen = np.asarray(PIL.Image.open(io.BytesIO(smaller)).convert("RGB")).astype(int)
    assert np.abs(seen - drawing).mean() < 2
