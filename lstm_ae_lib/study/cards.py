"""Cards of released weights as a reader finds them elsewhere: YAML for a model hub's search, then Markdown. All of it is read from
the JSON beside the weights; ``release`` writes ``NAME.md``, and uploading is left to the user."""

from pathlib import Path

import yaml

from lstm_ae_lib import files, weights
from lstm_ae_lib.study import reporting

KINDS = {  # folder -> task of a hub, tags, command, line of Python
    "": ("image-to-image", ["image-restoration", "deblurring", "denoising"],
         "python -m lstm_ae_lib restore IN.png OUT.png --weights {name}", 'restorer = lstm_ae_lib.load_restorer("{name}")'),
    "lstm": ("image-to-image", ["image-restoration", "deblurring", "lstm"], "",
             'model, _ = weights.read_released("{name}", weights.released_dir("lstm"))'),
    "burst": ("image-to-image", ["image-restoration", "denoising", "burst"], "python -m lstm_ae_lib restore FRAME1.png FRAME2.png "
              "OUT.png --weights {name}", 'step, card = lstm_ae_lib.tasks.sequences.load_step("{name}")'),
    "jpeg": ("image-to-image", ["image-restoration", "jpeg"], "python -m lstm_ae_lib restore IN.jpg OUT.png --weights jpeg",
             'mender, card = lstm_ae_lib.tasks.jpegs.load_mender("{name}")'),
    "compress": ("image-to-image", ["image-compression"], "python -m lstm_ae_lib compress IN.png OUT.laec --weights {name}",
                 'codec = lstm_ae_lib.tasks.codec.load_codec("{name}")'),
    "classify": ("image-classification", ["cifar10"], "",
                 'model, _ = weights.read_released("{name}", weights.released_dir("classify"))'),
    "variational": ("image-to-image", ["variational-autoencoder"], "",
                    'model, _ = weights.read_released("{name}", weights.released_dir("variational"))'),
}  # fmt: skip
MEASURES = {"mse": "MSE", "psnr": "PSNR (dB)", "ssim": "SSIM", "accuracy": "accuracy", "bits_per_pixel": "bits per pixel"}


def find(name: str, folder=None) -> tuple:
    """The folder's kind, the name of weights and their folder, from a name in ``data/weights``, or ``KIND/NAME`` for those in a
    folder of it; of other weights ``folder`` is given."""
    kind, _, own = name.rpartition("/")
    if kind not in KINDS:
        raise ValueError(f"weights must be a NAME, or one of {', '.join(f'{kind}/NAME' for kind in KINDS if kind)}, got {name!r}")
    folder = Path(folder or weights.released_dir(kind))
    weights.describe_released(own, folder)
    return kind, own, folder


def card(name: str, folder=None) -> str:
    """The card of released weights, such as ``"photo"`` or ``"compress/default"``; ``ValueError`` for unknown ones."""
    kind, own, folder = find(name, folder)
    description = weights.describe_released(own, folder)
    known = description["card"]
    return "\n".join([_header(kind, own, known), f"# {own}", "", f"{known['task'][0].upper()}{known['task'][1:]}.", "",
                      *_use(kind, own, description), *_numbers(known), *_made(description), ""])  # fmt: skip


def write_card(name: str, folder=None) -> Path:
    """Writes :func:`card` as ``NAME.md`` beside the weights, and returns its path."""
    kind, _, own = name.rpartition("/")
    path = Path(folder or weights.released_dir(kind)) / f"{own}.md"
    files.write(path, card(name, folder).encode())
    return path


def _measured(known):
    """Restorer -> its numbers on the test images, the network's own last."""
    numbers = known.get("numbers", known)
    return numbers if isinstance(next(iter(numbers.values())), dict) else {"this": numbers}


def _header(kind, name, known):
    task, tags, *_ = KINDS[kind]
    own = list(_measured(known).values())[-1]
    present = {field: title for field, title in MEASURES.items() if field in own}
    measured = [{"type": field, "name": title, "value": round(float(own[field]), 6)} for field, title in present.items()]
    on_pictures = known["data"]["kind"] == "pictures"
    called = ("scikit-image's photographs", "photographs") if on_pictures else ("CIFAR-10", "cifar10")
    tested = {"name": called[0], "type": called[1], "split": "test"}
    header = {
        "license": "mit", "library_name": "keras", "pipeline_tag": task, "tags": tags,
        **({} if on_pictures else {"datasets": ["uoft-cs/cifar10"]}), "metrics": [one["type"] for one in measured],
        "model-index": [{"name": name, "results": [{"task": {"type": task}, "dataset": tested, "metrics": measured}]}],
    }  # fmt: skip
    return f"---\n{yaml.safe_dump(header, sort_keys=False, allow_unicode=True)}---\n"


def _use(kind, name, description):
    _, _, command, line = KINDS[kind]
    made = ["## Use", "", *(["```", command.format(name=name), "```", ""] if command else [])]
    modules = {"": "lstm_ae_lib", "compress": "lstm_ae_lib.tasks.codec", "burst": "lstm_ae_lib.tasks.sequences",
               "jpeg": "lstm_ae_lib.tasks.jpegs"}  # fmt: skip
    imports = f"import {modules.get(kind, 'lstm_ae_lib')}" + "\nfrom lstm_ae_lib import weights" * (kind not in modules)
    made += ["```python", imports, "", line.format(name=name), "```", ""]
    listed = [f"- `{name}.weights.h5` (Keras, {description['builder']}, {description['parameters']:,} parameters): SHA-256 "
              f"`{description['sha256']}`"]  # fmt: skip
    listed += [f"- `{file}.onnx` (ONNX): SHA-256 `{sha256}`" for file, sha256 in description.get("onnx", {}).items()]
    if "context" in description:
        listed.append(f"- `{name}-context.npz` (what foretells numbers): SHA-256 `{description['context']}`")
    return [*made, "Files:", "", *listed, ""]


def _numbers(known):
    rows = [{"name": name, **values} for name, values in _measured(known).items()]
    columns = [reporting.Column("", lambda row: row["name"].replace("_", " "))]
    for field, title in MEASURES.items():
        if all(field in row for row in rows):
            style = ".3e" if field == "mse" else ".3f" if field in ("ssim", "accuracy") else ".2f"
            ends = all(f"{field}_low" in row for row in rows)
            columns.append((reporting.interval if ends else reporting.number)(title + " [95 %]" * ends, field, style))
    images = max((row.get("images", 0) for row in rows), default=0)
    made = ["## Numbers", "", f"On {images:,} test images.", "", reporting.render(rows, columns, "markdown"), ""]
    if known.get("protocol") == "broken_jpeg":
        said = ", ".join(f"{psnr:.1f} dB at quality {quality}" for quality, psnr in known["sound"].items())
        made += [f"Sound JPEGs, before to after, PSNR: {said}.", ""]
    if "rates" in known:
        columns = [reporting.Column("steps", lambda row: f"2^({row['size']}/4)" if row["size"] else "its own"),
                   *(reporting.number(MEASURES[field], field, style)
                     for field, style in (("bits_per_pixel", ".3f"), ("psnr", ".2f"), ("ssim", ".3f")))]  # fmt: skip
        made += ["With steps of other sizes (`compress --quality`), on the first "
                 f"{known['rates'][0]['images']:,} test images, without headers:", "",
                 reporting.render(known["rates"], columns, "markdown"), ""]  # fmt: skip
    if "cases" in known:
        made += ["On whole photographs and on other pictures that no training has seen:", "",
                 reporting.cases_table(known["cases"], "markdown"), ""]  # fmt: skip
    return made


def _made(description):
    known = description["card"]
    minutes = "; ".join(f"{name.replace('_', ' ')} {part['minutes']:.0f} minutes, {part['images_seen']:,} images"
                        for name, part in known["training"].items())  # fmt: skip
    named = (name for name in ("python", "tensorflow", "keras") if name in known["versions"])
    versions = ", ".join(f"{name} {known['versions'][name]}" for name in named)
    return ["## Limits", "", known["limits"], "", "## Training", "",
            f"Run `{known['run']}` ({known['data']['kind']} data, content `{known['data']['hash'][:16]}`): {minutes}. "
            f"{known['hardware']['summary']}; {versions}, commit `{known['versions'].get('commit', 'unknown')[:10]}`, seed "
            f"{known['parameters'].get('seed', 0)}."]  # fmt: skip
