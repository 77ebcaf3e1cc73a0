"""The study as a book, a static site: README, the folders' READMEs, all notebooks with the outputs that they have, the API of the
core from its docstrings, and the page that restores pictures. Nothing is executed.

Sphinx with MyST-NB builds it, from a folder that this module fills; a warning, such as a link to nothing, is an error.
"""

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from lstm_ae_lib import paths
from lstm_ae_lib.study import page

PARTS = {  # title -> documents, in their order
    "The study": ("README", "data/published/README", "data/benchmarks/README"),
    "The spine": "notebooks/0[0-9]_*.ipynb",
    "Tasks": "notebooks/1[0-9]_*.ipynb",
    "Variants": "notebooks/2[0-9]_*.ipynb",
    "Where recurrence pays": "notebooks/3[0-9]_*.ipynb",
    "Use": ("restore", "notebooks/README", "data/README", "data/weights/compress/README", "figures/README"),
    "The library": ("lstm_ae_lib/README", "api/index", "tests/README"),
    "Drivers, for papermill": "notebooks/9[0-9]_*.ipynb",
}
API = ("degradations", "layers", "models", "peers", "spectral", "classical", "datasets", "cifar10", "training", "metrics",
       "plotting", "weights", "restoring", "pictures", "seeding", "kernels", "checks", "files", "paths")  # fmt: skip
COPIED = ("README.md", "*/README.md", "data/**/README.md", "notebooks/[0-9]*.ipynb", "figures/*.png", "lstm_ae_lib/**/*.py",
          "lstm_ae_lib/LICENSE", "data/reference_metrics.json", "data/benchmarks/*.json", "requirements.txt",
          "pyproject.toml")  # fmt: skip
CONFIGURATION = '''
project = "LSTM autoencoders for image restoration"
author, copyright = "the project's authors", "its authors, MIT licence"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
html_theme, html_title = "sphinx_book_theme", "LSTM autoencoders for image restoration"
html_theme_options = {"home_page_in_toc": False, "show_toc_level": 2, "use_download_button": False}
html_extra_path, html_show_sourcelink, html_copy_source = ["extra"], False, False
exclude_patterns = ["extra", "lstm_ae_lib/**/*.py"]
nb_execution_mode, nb_ipywidgets_js, nb_merge_streams = "off", {}, True
myst_heading_anchors = 4
autodoc_member_order, autodoc_typehints, autodoc_inherit_docstrings, add_module_names = "bysource", "none", False, False
html_math_renderer = "mathml"  # browsers show it without a script


def setup(app):
    from docutils import nodes
    from latex2mathml.converter import convert

    def write(display):
        def visit(writer, node):
            writer.body.append(convert(node.astext(), display=display))
            raise nodes.SkipNode

        return visit, None

    app.add_html_math_renderer("mathml", write("inline"), write("block"))
'''
RESTORE = """# Restore a picture in the browser

The released networks run in the browser, too: <a href="restore/index.html">open the page</a>. The picture stays on your machine.
`python -m lstm_ae_lib page FOLDER` writes it for any web server.
"""


def write_book(target, runtime=None) -> Path:
    """Builds the book into a folder, which is made if it is missing, and returns its first page.

    ``runtime`` is as ``archive`` of :func:`lstm_ae_lib.study.page.write_page`, whose errors it raises; ``ImportError`` without
    Sphinx, MyST-NB, the theme and latex2mathml, ``RuntimeError`` with the warnings where there are any.
    """
    try:
        import latex2mathml  # noqa: F401
        import myst_nb  # noqa: F401
        import sphinx_book_theme  # noqa: F401
    except ModuleNotFoundError as error:
        raise ImportError(f"the book needs the package {error.name}: pip install 'lstm_ae_lib[book]'") from None
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder)
        _copy(paths.data_dir().parent, source)
        page.write_page(source / "extra" / "restore", runtime)
        _write_pages(source)
        command = [sys.executable, "-m", "sphinx", "-b", "html", "-W", "--keep-going", "-q", "-j", "auto", source, target]
        done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"the book has warnings:\n{done.stderr.strip().replace(f'{source}/', '')}")
    return Path(target) / "index.html"


def _copy(checkout, source):
    found = {path.relative_to(checkout) for pattern in COPIED for path in checkout.glob(pattern)}
    for name in sorted(name for name in found if not any(part.startswith(".") for part in name.parts)):
        path, copy = checkout / name, source / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".md":
            copy.write_text(_with_files_for_folders(path), encoding="utf-8")
        else:
            shutil.copy(path, copy)


def _with_files_for_folders(path):
    """Markdown whose links to folders are links to the READMEs in them."""

    def link(found):
        named = path.parent / found[1]
        return f"]({found[1].rstrip('/')}/README.md)" if (named / "README.md").is_file() else found[0]

    return re.sub(r"\]\(([^)#:]+)\)", link, path.read_text(encoding="utf-8"))


def _write_pages(source):
    (source / "conf.py").write_text(CONFIGURATION)
    (source / "restore.md").write_text(RESTORE)
    trees = ["# LSTM autoencoders for image restoration\n"]
    for title, documents in PARTS.items():
        if isinstance(documents, str):
            documents = sorted(path.relative_to(source).with_suffix("").as_posix() for path in source.glob(documents))
        if documents:
            trees.append("\n".join(["```{toctree}", f":caption: {title}", ":maxdepth: 1", "", *documents, "```\n"]))
    (source / "index.md").write_text("\n".join(trees))
    (source / "api").mkdir()
    for name in API:
        title = f"``{name}``"
        (source / "api" / f"{name}.rst").write_text(
            f"{title}\n{'=' * len(title)}\n\n.. automodule:: lstm_ae_lib.{name}\n   :members:\n   :show-inheritance:\n")
    lines = ["# The core's API", "", "One question a module: [the library's README](../lstm_ae_lib/README.md) has the table.", "",
             "```{toctree}", ":maxdepth: 1", "", *API, "```", ""]  # fmt: skip
    (source / "api" / "index.md").write_text("\n".join(lines))


if __name__ == "__main__":
    print(write_book(*sys.argv[1:]))
