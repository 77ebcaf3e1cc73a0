"""Degradations of images of any size, and the protocols that fix every constant of them.

:func:`degrade` defines each protocol by SciPy's or OpenCV's own code; random numbers come from a generator seeded by the image's
position in its data set. Protocols that blur every image alike exist as a Keras layer too (:func:`operator`), with the same pixels.
"""

import dataclasses
import functools

import numpy as np

from lstm_ae_lib import checks, kernels

LARGEST_SIGMA = 64.0
BORDERS = ("reflect_101", "reflect")
PROTOCOL_SEED = 2009  # of the generators of the random protocols, beside the image's position


@dataclasses.dataclass(frozen=True)
class Protocol:
    """A degradation with every constant fixed. Noise is in units of the [0, 1] range, sigmas are in pixels."""

    name: str  # the word that parameters, records and tables use
    summary: str  # one line for a person
    source: str  # where the definition comes from
    sigma: float = 0.0  # standard deviation of the Gaussian kernel; 0: no blur, or one of the next two
    sigma_range: tuple | None = None  # each image's own sigma is uniform between these two
    passes: tuple = ()  # the sigmas of several blurs in a row
    kernel: int = 0  # side of the kernel in pixels, odd; 0: as large as the library makes it for that sigma
    noise: float = 0.0  # standard deviation of added Gaussian noise; 0: none, or the next one
    noise_range: tuple | None = None  # each image's own noise is uniform between these two
    blurs: tuple = ()  # kinds of blur, one of which each image gets: (share, word of BLURS, lowest strength, highest)
    noise_share: float = 1.0  # of the images that get noise, where one of several blurs is drawn; the next two alike
    noise_power: int = 1  # a uniform number from 0 to 1 to this power says where in noise_range the noise is
    jpeg_share: float = 0.0  # of the images that become a JPEG
    jpeg_range: tuple = (50, 98)  # its quality, a whole number between these two
    untouched_share: float = 0.0  # of the images that stay as they are
    made_by: object = None  # a function of an image and a generator that does all of it, for what nothing above describes
    engine: str = "opencv"  # each channel by itself, rounded; "scipy": colours are blurred too, truncated after each axis
    eight_bit: bool = True  # the degraded image is uint8, clipped and rounded; otherwise float32, not clipped
    notes: str = ""  # what to know when numbers are compared

    def __post_init__(self):
        checks.choice(self.engine, "engine", ("opencv", "scipy"))
        for name in ("sigma", "noise"):
            checks.number(getattr(self, name), name, 0, LARGEST_SIGMA)
        for name in ("noise_share", "jpeg_share", "untouched_share"):
            checks.number(getattr(self, name), name, 0, 1)
        for _, kind, _, _ in self.blurs:
            checks.choice(kind, "a kind of blurs", BLURS)
        if self.blurs and abs(sum(share for share, *_ in self.blurs) - 1) > 1e-9:
            raise ValueError(f"the shares of blurs must sum to 1, got {[share for share, *_ in self.blurs]}")

    @property
    def transform(self) -> str:
        """The cosine transform that makes the linear filter diagonal: ``"dct1"`` for OpenCV's BORDER_REFLECT_101, which mirrors
        about the outermost pixel; ``"dct2"`` for SciPy's ``reflect``, which mirrors about the edge, and for white noise alone."""
        return "dct1" if self.blur != "-" and self.engine == "opencv" else "dct2"

    @property
    def in_graph(self) -> bool:
        """Whether there is an :func:`operator`: one blur, the same for every image, of 8-bit pixels."""
        return bool(self.sigma) and not (self.kernel or self.noise) and self.eight_bit

    @property
    def blur(self) -> str:
        """The blur's sigma as text."""
        if self.blurs:
            return f"{len(self.blurs)} kinds"
        if self.sigma_range:
            return "{:g} to {:g} px".format(*self.sigma_range)
        if self.passes:
            return f"{self.passes[0]:g} to {self.passes[-1]:g} px, {len(self.passes)} passes"
        return f"{self.sigma:g} px" if self.sigma else "-"

    @property
    def noise_text(self) -> str:
        """The noise's standard deviation as text."""
        if self.noise_range:
            return "{:.3g} to {:.3g}".format(*self.noise_range)
        return f"{self.noise:.3g}" if self.noise else "-"

    @property
    def strength_range(self) -> tuple | None:
        """Lowest and highest strength, sigma or noise, of a protocol that draws that alone for each image; None for others."""
        return None if self.blurs else self.sigma_range or self.noise_range


_OPENCV = "cv2.GaussianBlur(x, (0, 0), sigma, borderType=cv2.BORDER_REFLECT_101) on uint8"
_COLD = {
    "passes": tuple(0.35 + i / 100 for i in range(50)), "kernel": 11,
    "source": "Bansal et al., Cold Diffusion (2022): 11x11 kernels, sigma 0.35 + i/100, i = 0..49, cv2.GaussianBlur on float32",
}  # fmt: skip
BLURS = ("none", "gaussian", "elliptic", "motion", "disc", "enlarged")  # of Protocol.blurs
_CAMERA = "a blur in float, round(clip(x + s * N(0, 1), 0, 255)), cv2.imencode('.jpg'), 4:2:0; each with its share of the images"
_KINDS = (
    Protocol("reference", "the precursor study's blur: sigma 1 over rows, columns and colours, truncated to 8 bits after each",
             "scipy.ndimage.gaussian_filter(image, sigma=1.0) on each uint8 (32, 32, 3) array", sigma=1.0, engine="scipy",
             notes="the precursor reports the MSE of validation images"),
    *(Protocol(f"gauss{sigma}", f"Gaussian blur of sigma {sigma}, each channel by itself, rounded to 8 bits", _OPENCV,
               sigma=float(sigma)) for sigma in (1, 2, 3)),
    Protocol("blind", "Gaussian blur whose sigma, from 0 to 3, is another for each image and not told, rounded to 8 bits",
             "cnn-deblur (nihil21): cv2.GaussianBlur(x, (0, 0), sigma), sigma ~ U(0, 3)", sigma_range=(0.0, 3.0),
             notes="images with a sigma near 0 inflate the mean PSNR: compare MSE and SSIM"),
    Protocol("noisy", "Gaussian blur, 5x5 kernel, sigma from 1 to 4, another for each image, and noise of 0.02",
             "cv2.GaussianBlur(x / 255, (5, 5), sigma) + 0.02 * N(0, 1), sigma ~ U(1, 4)", sigma_range=(1.0, 4.0), kernel=5,
             noise=0.02, eight_bit=False, notes="float, not clipped; the published numbers are MSE"),
    Protocol("cold", "fifty Gaussian blurs in a row, nothing rounded", eight_bit=False, **_COLD,
             notes="float32 still holds what no eye can see; the published number is the RMSE of resized images"),
    Protocol("cold8", "the fifty blurs of cold, then rounded to 8 bits", **_COLD, notes="what is left for a picture in a file"),
    *(Protocol(f"awgn{level}", f"Gaussian noise of {level}/255, clipped and rounded to 8 bits",
               f"round(clip(x + {level} * N(0, 1), 0, 255)) on uint8", noise=level / 255) for level in (15, 25, 50)),
    Protocol("awgn", "Gaussian noise of 0 to 55/255, another for each image and not told, clipped and rounded to 8 bits",
             "round(clip(x + s * N(0, 1), 0, 255)) on uint8, s ~ U(0, 55)", noise_range=(0.0, 55 / 255),
             notes="what one network for all levels is trained on; it is tested on awgn15, awgn25 and awgn50"),
    Protocol("camera", "what a photograph goes through, none of it told: a blur of five kinds, noise, 8 bits, JPEG", _CAMERA,
             kernel=15, noise_range=(0.0, 12 / 255), noise_share=0.8, jpeg_share=0.7, blurs=(
                 (0.1, "none", 0, 0), (0.35, "gaussian", 0.1, 3.0), (0.15, "elliptic", 0.2, 3.0), (0.25, "motion", 1.0, 13.0),
                 (0.15, "disc", 0.5, 4.0)), notes="this study's own; untouched images do not count in the mean PSNR"),
    Protocol("photo", "a photograph in an unknown state: a blur of six kinds to 6 px, noise to 80/255, JPEG to 20, or none",
             _CAMERA, kernel=31, noise_range=(0.0, 80 / 255), noise_share=0.7, noise_power=3, jpeg_share=0.65, jpeg_range=(20, 98),
             untouched_share=0.1, blurs=(
                 (0.2, "none", 0, 0), (0.3, "gaussian", 0.1, 3), (0.05, "gaussian", 3, 6), (0.1, "elliptic", 0.2, 4),
                 (0.2, "motion", 1, 17), (0.12, "disc", 0.5, 5), (0.03, "enlarged", 1, 3)), notes="for the weights photo"),
    Protocol("photo_blurred", "a photograph in an unknown state, mostly blurred: six kinds to 6 px, noise to 80/255, JPEG to 20",
             _CAMERA, kernel=31, noise_range=(0.0, 80 / 255), noise_share=0.7, noise_power=5, jpeg_share=0.65, jpeg_range=(20, 98),
             untouched_share=0.06, blurs=((0.12, "none", 0, 0), (0.3, "gaussian", 0.1, 3), (0.03, "gaussian", 3, 6),
                 (0.12, "elliptic", 0.2, 4), (0.3, "motion", 1, 17), (0.11, "disc", 0.5, 5), (0.02, "enlarged", 1, 3)),
             notes="for one of the trainings of the weights photo, photo-blurred: each part of photo in other shares"),
)  # fmt: skip
PROTOCOLS = {protocol.name: protocol for protocol in _KINDS}


def get_protocol(protocol, sigma: float = 0.0) -> Protocol:
    """Looks a protocol up by name in :data:`PROTOCOLS`; a ``Protocol`` passes through.

    ``sigma`` above 0, at most 64 pixels, makes a variant (``"gauss2@sigma=1.5"``); ``ValueError`` where the protocol has none.
    """
    if not isinstance(protocol, Protocol):
        protocol = PROTOCOLS[checks.choice(protocol, "protocol", PROTOCOLS)]
    checks.number(sigma, "sigma", 0, LARGEST_SIGMA)
    if sigma in (0, protocol.sigma):
        return protocol
    if not protocol.in_graph:
        able = ", ".join(name for name, other in PROTOCOLS.items() if other.in_graph)
        raise ValueError(f"sigma must be 0 for the protocol {protocol.name} (others: {able}), got {sigma!r}")
    name, sigma, source = protocol.name.split("@")[0], float(sigma), protocol.source.replace("sigma=1.0", f"sigma={float(sigma)!r}")
    summary = protocol.summary.replace(f"sigma {protocol.sigma:g}", f"sigma {sigma!r}")
    return dataclasses.replace(protocol, name=f"{name}@sigma={sigma!r}", summary=summary, source=source, sigma=sigma)


def degrade(images, protocol, first_index: int = 0) -> np.ndarray:
    """Degrades 8-bit images, exactly as the protocol defines it.

    Args:
        images: ``(batch, height, width, 3)`` uint8, RGB.
        protocol: a name in :data:`PROTOCOLS`, or a ``Protocol``.
        first_index: position of ``images[0]`` in its data set, by which random numbers are drawn, alike in all data sets.

    Returns the same shape: uint8, or for the protocols ``noisy`` and ``cold`` float32 in units of [0, 1], not clipped.
    """
    images = checks.images_uint8(images)
    checks.number(first_index, "first_index", 0, 2**63 - 1, whole=True)
    return _degrade_at(images, get_protocol(protocol), range(first_index, first_index + len(images)))


def redegrade(images, protocol, positions, epoch: int) -> np.ndarray:
    """Degrades as :func:`degrade`, but draws random numbers anew in each ``epoch``, 0 to 2**30 (at 0 they are the same).

    ``positions``: ``(n,)`` whole numbers, each image's position in its data set, 0 to 2**32 - 1.
    """
    images, positions = checks.images_uint8(images), checks.array(positions, "positions")
    checks.number(epoch, "epoch", 0, 2**30, whole=True)
    if positions.shape != (len(images),) or positions.dtype.kind not in "iu" or not (positions.astype(np.uint64) < 2**32).all():
        raise ValueError(f"positions must be {len(images)} whole numbers below 2**32, got {positions.dtype} {positions.shape}")
    return _degrade_at(images, get_protocol(protocol), (2**32 * int(epoch) + int(position) for position in positions))


def _degrade_at(images, protocol, places):
    if protocol.engine == "scipy":
        import scipy.ndimage

        return scipy.ndimage.gaussian_filter(images, (0.0, *[protocol.sigma] * 3))  # sigma 0 on the batch axis
    degraded = np.empty_like(images, np.uint8 if protocol.eight_bit else np.float32)
    for index, (image, place) in enumerate(zip(images, places, strict=True)):
        random = np.random.default_rng((PROTOCOL_SEED, place)) if is_random(protocol) else None
        degraded[index] = _degrade_one(image, protocol, random)
    return degraded


def _degrade_one(image, protocol, random):
    if protocol.blurs or protocol.made_by:
        return protocol.made_by(image, random) if protocol.made_by else _photographed(image, protocol, random)
    sigmas = protocol.passes or ((protocol.sigma,) if protocol.sigma else ())
    if protocol.sigma_range:
        sigmas = (random.uniform(*protocol.sigma_range),)
    noise = random.uniform(*protocol.noise_range) if protocol.noise_range else protocol.noise
    if protocol.eight_bit and sigmas and not protocol.passes and not noise:
        return _blurred(image, sigmas[0], protocol.kernel)
    values = image / np.float32(255)
    for sigma in sigmas:
        values = _blurred(values, sigma, protocol.kernel)
    if noise:
        values = values + np.float32(noise) * random.standard_normal(values.shape, np.float32)
    return np.rint(np.clip(values, 0, 1) * 255) if protocol.eight_bit else values


def _photographed(image, protocol, random):
    """Draws every number, used or not: one share changed leaves the others' images as they are."""
    untouched, kind, noisy, strength, compressed = random.random(5)
    place = np.searchsorted(np.cumsum([share for share, *_ in protocol.blurs]), kind, side="right")
    _, kind, low, high = protocol.blurs[min(place, len(protocol.blurs) - 1)]
    sizes, angle = random.uniform(low, high, 2), random.uniform(0, np.pi)
    quality = int(random.integers(protocol.jpeg_range[0], protocol.jpeg_range[1] + 1))
    if untouched < protocol.untouched_share:
        return image
    low, high = protocol.noise_range
    noise = low + (high - low) * strength**protocol.noise_power if noisy < protocol.noise_share else 0.0
    quality = quality if compressed < protocol.jpeg_share else 0
    return through_camera(image, random, kind, sizes, angle, noise, quality, protocol.kernel)


def through_camera(image, random, kind: str = "none", sizes=(0.0,), angle: float = 0.0, noise: float = 0.0, quality: int = 0,
                   side: int = 31) -> np.ndarray:  # fmt: skip
    """One image as a camera and a file leave it: a blur, noise from the generator ``random``, 8 bits, and a JPEG.

    Args:
        image: ``(height, width, 3)`` uint8, RGB.
        kind: of blur, a word of :data:`BLURS`; ``sizes`` has its strength (of ``"elliptic"`` two), in pixels, ``angle`` its
            direction in radians. Kernels but the Gaussian's have ``side`` pixels. See :mod:`lstm_ae_lib.kernels`.
        noise: standard deviation of Gaussian noise, in units of [0, 1].
        quality: of the JPEG, 1 to 100; 0 for none.
    """
    values = image / np.float32(255)
    if checks.choice(kind, "kind", BLURS) == "gaussian":
        values = _blurred(values, sizes[0], 0)
    elif kind == "enlarged":
        values = enlarged(values, sizes[0])
    elif kind != "none":
        make = {"elliptic": lambda: kernels.gaussian(*sizes, angle, side), "motion": lambda: kernels.motion(sizes[0], angle, side),
                "disc": lambda: kernels.disc(sizes[0], side)}[kind]  # fmt: skip
        values = kernels.blur(values, make())
    if noise:
        values = values + np.float32(noise) * random.standard_normal(values.shape, np.float32)
    values = np.rint(np.clip(values, 0, 1) * 255).astype(np.uint8)
    return jpeg(values, quality) if quality else values


def enlarged(image, factor: float) -> np.ndarray:
    """An image as it is after shrinking by ``factor``, from 1 to 64 (pixel areas), and enlarging (cubic) to its size again."""
    import cv2

    height, width = image.shape[:2]
    small = tuple(max(1, round(side / checks.number(factor, "factor", 1, 64))) for side in (width, height))
    return cv2.resize(cv2.resize(image, small, interpolation=cv2.INTER_AREA), (width, height), interpolation=cv2.INTER_CUBIC)


def jpeg(image, quality: int) -> np.ndarray:
    """An image ``(height, width, 3)`` uint8, RGB, as it comes back from a JPEG of ``quality`` 1 to 100, colours halved (4:2:0)."""
    import cv2

    checks.number(quality, "quality", 1, 100, whole=True)
    options = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420]
    _, content = cv2.imencode(".jpg", image[..., ::-1], options)
    return cv2.imdecode(content, cv2.IMREAD_COLOR)[..., ::-1]


def _blurred(image, sigma, kernel):
    import cv2

    return cv2.GaussianBlur(image, (kernel, kernel), sigma, borderType=cv2.BORDER_REFLECT_101, hint=cv2.ALGO_HINT_ACCURATE)


def is_random(protocol) -> bool:
    """Whether a protocol draws random numbers for each image: a sigma, a strength of noise, or the noise itself."""
    protocol = get_protocol(protocol)
    return bool(protocol.strength_range or protocol.noise or protocol.blurs or protocol.made_by)


def sampled_strengths(protocol, count: int, first_index: int = 0) -> np.ndarray:
    """The strengths that :func:`degrade` draws, sigma in pixels or noise in units of [0, 1]: ``(count,)`` float64."""
    protocol = get_protocol(protocol)
    checks.number(count, "count", 0, 2**62, whole=True)
    checks.number(first_index, "first_index", 0, 2**62, whole=True)
    if not protocol.strength_range:
        able = ", ".join(name for name, other in PROTOCOLS.items() if other.strength_range)
        why = "draws more than a strength" if protocol.blurs or protocol.made_by else "degrades every image alike"
        raise ValueError(f"the protocol {protocol.name} {why} (others: {able})")
    positions = range(first_index, first_index + count)
    return np.array([np.random.default_rng((PROTOCOL_SEED, place)).uniform(*protocol.strength_range) for place in positions])


def as_float(degraded) -> np.ndarray:
    """Degraded images, 8-bit or float, as a restorer takes them: float32 in units of [0, 1]."""
    degraded = checks.array(degraded, "degraded")
    return degraded / np.float32(255) if degraded.dtype == np.uint8 else degraded.astype(np.float32, copy=False)


def operator(protocol, eight_bit: bool = True):
    """The protocol as a :class:`lstm_ae_lib.layers.GaussianBlur`; ``ValueError`` for one without (``Protocol.in_graph``).

    ``eight_bit``: the protocol's own arithmetic (multiples of 1/255, gradient zero), or the linear operator before rounding.
    """
    from lstm_ae_lib import layers

    protocol = get_protocol(protocol)
    if not protocol.in_graph:
        raise ValueError(f"the protocol {protocol.name} has no in-graph operator: degrade() makes its images")
    scipy = protocol.engine == "scipy"
    rounding = ("truncate" if scipy else "opencv") if checks.choice(eight_bit, "eight_bit", (True, False)) else None
    name, border = f"degrade_{protocol.name}".replace("@sigma=", "_"), "reflect" if scipy else "reflect_101"
    return layers.GaussianBlur(protocol.sigma, border, mix_channels=scipy, rounding=rounding, dtype="float32", name=name)


def kernel_radius(sigma: float, border: str) -> int:
    """The kernel's reach in pixels: SciPy (border ``"reflect"``) cuts at four standard deviations, OpenCV (``"reflect_101"``) at
    three for 8-bit images (at four for float images, unless told the size)."""
    checks.number(sigma, "sigma", 0, LARGEST_SIGMA, above_low=True)
    return int(4.0 * sigma + 0.5) if checks.choice(border, "border", BORDERS) == "reflect" else (round(sigma * 6 + 1) | 1) // 2


def kernel_taps(sigma: float, border: str) -> np.ndarray:
    """The Gaussian kernel, ``(2 * radius + 1,)`` float64, sum 1."""
    radius = kernel_radius(sigma, border)
    taps = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    return taps / taps.sum()


@functools.lru_cache(maxsize=64)
def opencv_taps_in_256ths(sigma: float) -> tuple:
    """The integer kernel, sum 256, that OpenCV blurs 8-bit images with: from the outside inwards each tap is rounded, with what
    the one before has lost; the centre is what is missing to 256."""
    half, lost = [], 0.0
    for tap in 256 * kernel_taps(sigma, "reflect_101")[: kernel_radius(sigma, "reflect_101")]:
        half.append(round(tap + lost))
        lost += tap - half[-1]
    return (*half, 256 - 2 * sum(half), *reversed(half))


def blur_matrix(size: int, taps, border: str) -> np.ndarray:
    """The matrix that blurs one axis of ``size`` pixels with ``taps`` as for :func:`blur_axis`: float64, ``matrix @ pixels``.

    ``border``: ``"reflect_101"`` (OpenCV's default, ``cb|abc|ba``) or ``"reflect"`` (SciPy's default, ``ba|abc|cb``).
    """
    checks.number(size, "size", 1, 2**31, whole=True)
    taps = checks.array(taps, "taps").astype(float)
    if taps.ndim != 1 or taps.size % 2 == 0:
        raise ValueError(f"taps must be an odd number of values, got the shape {taps.shape}")
    return blur_axis(np.eye(size), taps, 0, border)


def blur_axis(pixels: np.ndarray, taps, axis: int, border: str = "reflect_101") -> np.ndarray:
    """One axis of float64 ``pixels`` blurred with an odd number of ``taps``, the same from both ends, added up as SciPy does:
    bit for bit its ``correlate1d``. ``border`` as for :func:`blur_matrix`."""
    pixels, radius = np.moveaxis(pixels, axis, 0), len(taps) // 2
    around = ((radius, radius), *((0, 0),) * (pixels.ndim - 1))
    padded = np.pad(pixels, around, "symmetric" if checks.choice(border, "border", BORDERS) == "reflect" else "reflect")
    blurred = float(taps[radius]) * pixels
    for place in range(radius):
        ends = (padded[start : start + len(pixels)] for start in (place, 2 * radius - place))
        blurred = blurred + float(taps[place]) * sum(ends)
    return np.moveaxis(blurred, 0, axis)
