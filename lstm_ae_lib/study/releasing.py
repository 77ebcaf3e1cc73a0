"""Released weights, each with a card that is read from the records of the run that trained them."""

import functools
import warnings

import numpy as np

from lstm_ae_lib import checks, cifar10, degradations, files, metrics, models, pictures, restoring, spectral, weights
from lstm_ae_lib.study import cards, exporting, runs
from lstm_ae_lib.tasks import broken_jpeg, bursts, codec, mending, photographs, row_feedback, trust

SOUND_SIDE, SOUND_CROPS, SOUND_QUALITIES = 256, 12, (50, 75, 85, 95)  # JPEGs that a mender is to leave alone
SIZES, RATE_IMAGES = (-4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6), 1000  # of a compressor's steps; test images for each
SAMPLE_IMAGES = 50  # test images of the bundled sample, on which anyone who loads the weights can check their numbers
_TRAINED = "Trained on CIFAR-10's 32x32 images, on one seed"
LIMITS = {
    "autoencoder": f"{_TRAINED}, with this one degradation. Another blur, noise that the training did not have, or JPEG artefacts "
    "come out worse, not better; detail that the blur has wiped out is guessed or left out.",
    "gan": " Trained against a discriminator: it draws detail that looks right and need not be, and has more error than the "
    "network that it began as.",
    "pictures": "Trained on crops of photographs, on one seed. Detail that blur or noise has wiped out is guessed or left out; a "
    "picture that is no photograph, such as text, may be restored as if it were one: the tables of cases say what became of each "
    "kind.",
    "lstm": f"{_TRAINED}, with this one degradation, for 32x32 images only. The linear filter beside it has less error.",
    "compressor": f"{_TRAINED}, at this one rate. A larger picture is cut into blocks of that size, each written without regard to "
    "its neighbours: their borders show, the more the coarser the step.",
    "any_rate": f"{_TRAINED}. A photograph is compressed as a whole, by a network that has seen none: its lines are longer than "
    "any that it was trained on.",
    "any_rate on pictures": "Trained on small crops of photographs, on one seed. A picture that is no photograph, such as text, is "
    "compressed as if it were one, and a large picture's lines are longer than any that it was trained on.",
    "burst": f"{_TRAINED}, with this one degradation and this drift. It is for what moves as a whole, by up to 3 pixels a frame, "
    "in each tile of a large picture: something that moves by itself is smeared.",
    "jpeg": "Trained on crops of 128 pixels of photographs, on one seed: baseline JPEGs, 4:4:4, with 1 to 3 flipped bits. In a "
    "sound picture it may see damage where there is none, the more the lower its quality, or where a drawing's edges are blocks'. "
    "What a picture has lost is not drawn, and where nothing changes across an edge of a block a shift is not seen.",
    "classifier": "Trained on clean CIFAR-10 images only, on one seed. Distances in its features compare with no other network's.",
    "drawing": f"{_TRAINED}, for 32x32 images only. Numbers of the latent are independent of each other given the degraded image: "
    "detail that extends over some distance is not drawn.",
}  # fmt: skip
FOLDERS = {
    "autoencoder": "", "lstm": "lstm", "burst": "burst", "jpeg": "jpeg", "compressor": "compress", "classifier": "classify",
    "drawing": "variational",
}  # fmt: skip


def release_run(run_name: str, name: str, folder=None) -> dict:
    """Release what a finished run has trained: a restorer of images, bursts or JPEGs, an LSTM autoencoder, a compressor, a
    classifier or a variational pair.

    ``name`` is that of the weights, as ``"gauss2"``; of a variational pair, the network that draws images gets ``NAME-drawing``.
    Beside them come the card, ``NAME.md``, and a restorer's or compressor's ``.onnx`` files (with a warning none, where a layer has
    no such form). Returns what stands in the JSON, and ``folder`` (by default that of its kind in ``data/weights``).
    ``FileNotFoundError`` for a run without a network or records, ``ValueError`` for one that is not finished, or a name of other
    characters.
    """
    checks.file_name(name, "the name of weights")
    run = runs.open_run(run_name)
    record = run.record
    if runs.status(record) != "finished":
        raise ValueError(f"only a finished run is released; {run_name} is {runs.status(record)}")
    kind = next((kind for kind in ("drawing", "classifier", "compressor") if run.path(f"{kind}.json").is_file()), "autoencoder")
    network, description = weights.read(run.folder, "autoencoder" if kind == "drawing" else kind)
    if description["builder"] == models.reference_lstm_autoencoder.__name__:
        kind = "lstm"  # which no other size of image fits
    elif description["builder"] == bursts.burst_restorer.__name__:
        kind = "burst"
    elif record["protocol"] == broken_jpeg.PROTOCOL.name:
        kind = "jpeg"
    folder = folder or weights.released_dir(FOLDERS[kind])
    card = _CARDS[kind](run, record, network, description) | {"run": run.name}
    card |= {key: record[key] for key in ("training", "parameters", "data", "versions", "hardware")}
    card["limits"] = LIMITS["pictures" if record["data"]["kind"] == "pictures" and kind == "autoencoder" else kind]
    more = {}
    if kind == "autoencoder" and "gan" in record["training"]:
        card["limits"] += LIMITS["gan"]
    elif kind == "compressor":
        more = {field: description[field] for field in ("tables", "fingerprint") if field in description}
        if description["builder"] == codec.ANY_RATE:
            card["limits"] = LIMITS["any_rate on pictures" if record["data"]["kind"] == "pictures" else "any_rate"]
    elif kind == "drawing":
        drawing, its = weights.read(run.folder, "drawing")
        prior = {"task": "draws images from the prior"}
        weights.write(drawing, folder, f"{name}-drawing", its["builder"], its["arguments"], card=card | prior)
    written = weights.write(network, folder, name, description["builder"], description["arguments"], card=card, **more)
    if kind in ("autoencoder", "compressor"):
        try:
            written = exporting.export_released(name, folder)
        except exporting.NoFormError as reason:
            warnings.warn(f"no .onnx file is released: {reason}", stacklevel=2)
    for one in (name, f"{name}-drawing") if kind == "drawing" else (name,):
        cards.write_card(f"{FOLDERS[kind]}/{one}".lstrip("/"), folder)
    return written | {"folder": str(folder)}


def _restorer_card(run, record, network, description, any_size=True):
    restorer = restoring.ReleasedRestorer(run.name, network, description["builder"], description["arguments"], {})
    asked = {"protocol": record["protocol"], "sigma": 0.0} | record["parameters"]  # notebook 21 has one protocol and no word for it
    protocol = degradations.get_protocol(asked["protocol"], asked["sigma"])
    measured = {"photographs": measure_photographs(restorer, protocol)} if any_size else {}
    if protocol.blurs and any_size:  # several degradations: what becomes of each, and of pictures that are none of them
        measured |= _on_pictures(restorer)
    return {
        "task": f"restores what the protocol {protocol.name} degrades: {protocol.summary}", "protocol": record["protocol"],
        "numbers": tested_numbers(run), **measured,
        "sample": measure_sample(restorer, protocol), "multiply_adds": models.multiply_adds(network),
    }  # fmt: skip


def _on_pictures(restorer):
    cases = {"cases": photographs.measure(restorer), "cases of 256 pixels": photographs.measure(restorer, 256)}
    return cases | {"trust": trust.calibrate(restorer)}


def measure_again(name: str, folder=None) -> dict:
    """Measures anew what released weights such as ``photo`` do to photographs and to other pictures, or a compressor such as
    ``compress/fine`` with steps of other sizes; writes JSON and card, and returns the JSON's. ``ValueError`` for other weights."""
    kind, own, folder = cards.find(name, folder)
    described = weights.describe_released(own, folder)
    if kind == "compress" and "rates" in described["card"]:
        found = {"rates": measure_rates(codec.load_codec(own, folder), described["card"]["data"]["kind"])}
    elif "cases" in described["card"]:
        found = _on_pictures(restoring.load_restorer(own, folder))
    else:
        raise ValueError(f"only photo, or a compressor for one rate, can be measured anew, got {name}")
    described["card"] |= found
    files.write_json(folder / f"{own}.json", described)
    cards.write_card(name, folder)
    return described


def _burst_card(run, record, network, description):
    if (memory := description["arguments"]["memory"]) != "recurrent":
        raise ValueError(f"only a recurrent burst restorer is released; {run.name} has memory {memory!r}")
    variant, fields = bursts.VARIANTS[record["protocol"]], ("images", "mse", "psnr", "psnr_low", "psnr_high", "ssim")
    degraded = f"a blur of {variant.sigma:g} pixels and " * bool(variant.sigma) + f"noise of {255 * variant.noise:.0f} grey levels"
    numbers = {}
    for one in sorted(run.records(), key=lambda one: (one["restorer"] != "degraded", -one["drift"], one["setting"])):
        name = f"{one['setting']} frame" + "s" * (one["setting"] > 1)
        name += f", drift {one['drift']:g} times as fast" * (one["drift"] != 1)
        name = "last frame, as it is" if one["restorer"] == "degraded" else name
        numbers.setdefault(name, {field: one[field] for field in fields})
    task = f"restores the last of several frames of a drifting camera, each with {degraded}"
    return {"task": task, "protocol": record["protocol"], "numbers": numbers}


def _jpeg_card(run, record, network, description):
    if description["builder"] != row_feedback.feedback_mender.__name__:
        raise ValueError(f"only a feedback_mender is released of those that mend JPEGs; {run.name} has a {description['builder']}")
    fields, numbers = ("images", "mse", "psnr", "psnr_low", "psnr_high", "ssim"), {}
    sides = [min(image.shape[:2]) for image in pictures.photographs().values()]
    for one in sorted(run.records(), key=lambda one: one["setting"]):
        if (count := sum(side >= one["setting"] for side in sides)) > 1:  # crops of one photograph are one picture
            name = f"{one['setting']} pixels, {count} photographs, " + ("damaged" if one["restorer"] == "degraded" else "mended")
            numbers[name] = {field: one[field] for field in fields}
    sized, sound = functools.partial(mending.at_size, description["builder"], description["arguments"], network, SOUND_SIDE), {}
    for quality in SOUND_QUALITIES:
        clean = mending.crops(SOUND_SIDE, SOUND_CROPS)
        images = np.stack([broken_jpeg.damage(image, 0, 0, quality) for image in clean])
        mended = np.clip(np.concatenate([sized()(images[[place]] / np.float32(255)) for place in range(len(images))]), 0, 1)
        sound[str(quality)] = float(np.mean(metrics.per_image(images, mended)["psnr"]))
    return {"task": "mends JPEGs with flipped bits", "protocol": record["protocol"], "numbers": numbers, "sound": sound}


def _compressor_card(run, record, network, description):
    coder = codec.codec_of(network, description, "compressor")  # tables that are not the weights' own are not released
    fields = ("images", "mse", "psnr", "psnr_low", "psnr_high", "ssim", "bits_per_pixel", "bits_per_pixel_in_file")
    measured = [one for one in run.records() if one["restorer"] == description["builder"] and "bits_per_pixel" in one]
    measured.sort(key=lambda one: one["bits_per_pixel"])  # a card's head has the last one
    numbers = [{field: one[field] for field in fields} for one in measured]
    if description["builder"] == codec.ANY_RATE:
        steps = (f"steps of {one['setting']:.3f}" for one in measured)
        return {"task": "compresses pictures of any size, at any rate", "numbers": dict(zip(steps, numbers, strict=True))}
    (numbers,) = numbers
    return {"task": "compresses pictures, in blocks of 32x32 pixels", "numbers": numbers,
            "rates": measure_rates(coder, record["data"]["kind"])}  # fmt: skip


def measure_rates(coder, kind: str) -> list[dict]:
    """What a compressor makes of the first test images with steps of other sizes (:data:`SIZES`): for each ``size``, ``images``,
    ``bits_per_pixel`` of each image by itself, without headers, ``psnr`` and ``ssim``."""
    images, found = cifar10.load_cifar10(kind).test_images[:RATE_IMAGES], []
    for size in SIZES:
        decoded, counted = coder.measure(images, size)
        summary = metrics.evaluate(images, decoded)
        numbers = {"bits_per_pixel": float(8 * counted.mean() / codec.BLOCK**2), "psnr": summary["psnr"], "ssim": summary["ssim"]}
        found.append({"size": size, "images": len(images), **numbers})
    return found


def _classifier_card(run, record, network, description):
    task = "names the class of a clean CIFAR-10 image; its features measure how natural images look"
    return {"task": task, **record["classifier"], "multiply_adds": models.multiply_adds(network)}


def _variational_card(run, record, network, description):
    task = "draws restored images of what the protocol degrades, any number of them"
    return {"task": task, "protocol": record["protocol"], "numbers": tested_numbers(run), **record["variational"]}


_CARDS = {
    "autoencoder": _restorer_card, "lstm": functools.partial(_restorer_card, any_size=False), "compressor": _compressor_card,
    "classifier": _classifier_card, "drawing": _variational_card, "burst": _burst_card, "jpeg": _jpeg_card,
}  # fmt: skip


def tested_numbers(run) -> dict:
    """Of a run's records what a card says about the test images: restorer -> its numbers."""
    names = ("mse", "psnr", "ssim", "frechet", "kernel_distance", "accuracy")
    fields = ["images", "gradient_energy", *(f"{name}{end}" for name in names for end in ("", "_low", "_high"))]
    return {one["restorer"]: {key: one[key] for key in fields if key in one} for one in run.records() if one["split"] == "test"}


def measure_sample(restorer, protocol) -> dict:
    """Mean PSNR in dB on the sample's first test images: ``"degraded"``, ``"linear"`` (where it starts so), ``"restored"``."""
    clean = cifar10.load_cifar10("sample").test_images[:SAMPLE_IMAGES]
    degraded = degradations.as_float(degradations.degrade(clean, protocol))
    linear = linear_part(restorer)
    found = {"degraded": np.clip(degraded, 0, 1), "linear": linear and linear(degraded), "restored": restorer(degraded)}
    values = {name: metrics.per_image(clean, images) for name, images in found.items() if images is not None}
    return {"images": len(clean), **{name: metrics.summarize(value)["psnr"] for name, value in values.items()}}


def measure_photographs(restorer, protocol) -> dict:
    """PSNR in dB on :func:`lstm_ae_lib.pictures.photographs`, as of :func:`measure_sample`: title -> numbers."""
    linear = linear_part(restorer)
    found = {}
    for position, (title, photograph) in enumerate(pictures.photographs().items()):
        degraded = np.clip(degradations.as_float(degradations.degrade(photograph[None], protocol, position)[0]), 0, 1)
        if (degraded == degradations.as_float(photograph)).all():
            continue  # a sigma near 0 was drawn: there is nothing to restore
        start = linear and restoring.restore(degraded, linear)
        shown = {"degraded": degraded, "linear": start, "restored": restoring.restore(degraded, restorer)}
        values = {name: metrics.per_image(photograph[None], image[None]) for name, image in shown.items() if image is not None}
        found[title] = {name: float(value["psnr"][0]) for name, value in values.items()}
    return found


def linear_part(restorer):
    """The linear estimate that a :class:`lstm_ae_lib.restoring.ReleasedRestorer` starts from, as a restorer of its own, or None."""
    layer = spectral.linear_start_of(restorer.model)
    if layer is None:
        return None
    parts = {"parts": layer.parts} if isinstance(layer, spectral.SpectralMixture) else {}
    arguments = {"image_shape": restorer.model.inputs[0].shape[1:], "transform": layer.transform, **parts}
    builder = "linear_mixture" if parts else "linear_filter"
    model = weights.build(builder, arguments)
    spectral.set_linear_start(model, restorer.model)
    return restoring.ReleasedRestorer(f"{restorer.name}, linear start", model, builder, arguments, {})
