"""Several pictures of one scene: the last is restored from all of them, whatever their size and number."""

import numpy as np
import pytest

from lstm_ae_lib import __main__, metrics, paths, pictures, weights
from lstm_ae_lib.study import releasing, runs
from lstm_ae_lib.tasks import bursts, sequences

ARGUMENTS = {"frames": 4, "memory": "recurrent", "align": True, "width": 6, "state": 3, "depth": 1}


def trained(seed=1, **changes):
    """A network with weights of all kinds; without ``seed``, a new one, which averages what it has aligned."""
    network = bursts.burst_restorer(**ARGUMENTS | changes)
    if seed:
        random = np.random.default_rng(seed)
        network.set_weights([random.normal(0, 0.1, weight.shape) for weight in network.get_weights()])
    return network


@pytest.fixture(scope="module")
def scene(sample):
    """A picture of 75 x 61 pixels, smooth enough to be moved."""
    tiles = sample.test_images[:6].reshape(2, 3, 32, 32, 3).swapaxes(1, 2).reshape(64, 96, 3)
    return tiles[:61, :75]


def noisy(scene, count, deviation=25):
    random = np.random.default_rng(0)
    return [np.clip(scene + random.normal(0, deviation, scene.shape), 0, 255).astype(np.uint8) for _ in range(count)]


def psnr(scene, image):
    return metrics.per_image(scene[None], image[None] / np.float32(255))["psnr"][0]


@pytest.mark.parametrize("align", [True, False])
def test_frame_after_frame_gives_what_all_frames_at_once_give(sample, align):
    arguments = ARGUMENTS | {"align": align}
    network = trained(align=align, every=True)
    seen = bursts.degrade(sample.test_images[:2], "burst50", 4) / np.float32(255)
    wanted = network.predict(seen, verbose=0)
    step, state = bursts.step_of(arguments, network, (32, 32, 3)), (seen[:, 0], np.zeros((2, 32, 32, 3), np.float32))
    for number in range(4):
        state = step.predict_on_batch([seen[:, number], *state])
        np.testing.assert_allclose(state[0], wanted[:, number], atol=2e-5)


def test_a_network_with_another_memory_has_no_step():
    with pytest.raises(ValueError, match="a step needs memory 'recurrent', got 'window'"):
        bursts.step_of({"memory": "window"}, None, (32, 32, 3))


def test_one_frame_of_a_new_network_stays_and_more_frames_have_less_noise(scene):
    frames, model = noisy(scene, 6), {}
    network = trained(0)

    def step(shape):
        return model.setdefault(shape, bursts.step_of(ARGUMENTS, network, shape))

    np.testing.assert_array_equal(sequences.restore(frames[:1], step), frames[0])
    found = [psnr(scene, sequences.restore(frames[-count:], step)) for count in (1, 2, 5)]
    assert found[1] > found[0] + 1.5 and found[2] > found[1] + 1


class Halves:
    """A step without neighbours: the mean of the frame and the estimate, and how many frames there were."""

    def __init__(self, image_shape):
        assert image_shape[0] % 2 == image_shape[1] % 2 == 0
        self.inputs = [np.zeros((1, *image_shape))] * 2 + [np.zeros((1, *image_shape[:2], 1))]

    def predict_on_batch(self, given):
        frame, estimate, remembered = given
        assert frame.shape == self.inputs[0].shape and (remembered == remembered.flat[0]).all()
        return [(frame + estimate) / 2, remembered + 1]


def test_tiles_make_the_whole_and_frames_may_come_one_by_one(scene):
    frames = noisy(scene, 3)
    whole = sequences.restore(frames, Halves)
    wanted = np.rint((np.rint(frames[0] / 2 + frames[1] / 2.0) + frames[2]) / 2)
    assert whole.dtype == np.uint8 and np.abs(whole - wanted).max() <= 1
    tiled = sequences.restore((frame for frame in frames), Halves, tile=24, overlap=8)
    assert np.abs(whole.astype(int) - tiled).max() <= 1


def test_depth_and_alpha_are_the_last_frames(scene):
    frames, step = noisy(scene, 2), Halves
    deep = [frame.astype(np.uint16) * 257 for frame in frames]
    found = sequences.restore(deep, step)
    assert found.dtype == np.uint16
    assert np.abs(found / 257 - sequences.restore(frames, step)).max() <= 0.51
    alpha = np.arange(scene[..., 0].size, dtype=np.uint8).reshape(scene.shape[:2])
    found = sequences.restore([frames[0], np.dstack([frames[1], alpha])], step)
    np.testing.assert_array_equal(found[..., 3], alpha)
    np.testing.assert_array_equal(found[..., :3], sequences.restore(frames, step))


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        ([], "there must be at least one frame"),
        ([np.zeros((8, 20, 3), np.uint8)], "frames must be at least 9 pixels high and wide, got 8 x 20"),
        ([np.zeros((20, 30, 3), np.uint8), np.zeros((20, 31, 3), np.uint8)],
         "all frames must have one size: the first has 30 x 20 pixels, frame 2 has 31 x 20"),
        ([np.zeros((20, 30, 3), np.uint8), np.zeros((20, 30, 7), np.uint8)], "image"),
    ],
)  # fmt: skip
def test_frames_that_make_no_sequence_are_refused(frames, message):
    with pytest.raises(ValueError, match=message):
        sequences.restore(frames, Halves)


@pytest.fixture
def written(scene, tmp_path, monkeypatch):
    """Three frames as files, and weights that are not the released ones."""
    for number, frame in enumerate(noisy(scene, 3)):
        pictures.write(tmp_path / f"{number}.png", frame)
    weights.write(trained(0), tmp_path / "burst", "default", "burst_restorer", ARGUMENTS, card={"task": "restores"})
    real = weights.released_dir
    monkeypatch.setattr(weights, "released_dir", lambda kind="": tmp_path / "burst" if kind == "burst" else real(kind))
    return tmp_path


def test_the_command_restores_the_last_of_several_files(written, scene, capsys):
    names = [str(written / f"{name}.png") for name in (*range(3), "out")]
    assert __main__.main(["restore", *names, "--quiet"]) == 0
    assert "75 x 61 pixels, restored from 3 frames" in capsys.readouterr().out
    assert psnr(scene, pictures.read(written / "out.png")) > psnr(scene, pictures.read(written / "2.png")) + 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["0.png", "small.png", "out.png"], "all frames must have one size"),
        (["0.png", "nothing.png", "out.png"], "there is no file"),
        (["burst", "0.png", "out.png"], "frames must be pictures, got the folder"),
        (["0.png", "1.png", "0.png"], "is what is read: write to another file"),
        (["0.png", "1.png", "out.gif"], "the suffix of the file to write must be one of"),
        (["0.png", "1.png", "out.png", "--weights", "other"], "weights must be one of default; got 'other'"),
        (["0.png", "1.png", "out.png", "--strict", "--workers", "2"], "restored without --strict, --workers"),
        (["0.png", "1.png", "out.png", "--strength", "0.5"], "restored without --strength"),
        (["0.png", "1.png", "out.png", "--ensemble", "2"], "restored without --ensemble"),
        (["0.png", "clear.png", "out.jpg"], "which JPEG cannot hold: write a .png"),
        (["0.png", "1.png", "2.png"], "after the frames comes the name of a new picture"),
    ],
)
def test_requests_that_cannot_be_met_write_nothing(written, scene, capsys, words, message):
    pictures.write(written / "small.png", scene[:40])
    pictures.write(written / "clear.png", np.dstack([scene, scene[..., 0]]))
    before = [(written / f"{place}.png").read_bytes() for place in range(3)]
    words = [word if word.startswith("--") or word in ("other", "2", "0.5") else str(written / word) for word in words]
    assert __main__.main(["restore", *words]) == 2
    assert message in capsys.readouterr().err
    assert not (written / "out.png").exists() and not (written / "out.jpg").exists() and before == [
        (written / f"{place}.png").read_bytes() for place in range(3)
    ]


def test_a_run_is_released_with_its_numbers_frame_by_frame(made, sample, tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "released_dir", lambda kind="": tmp_path / "weights" / kind)
    run = runs.start_run("mine", {"seed": 3}, sample, "burst50")
    run.save_model("autoencoder", trained(0), "burst_restorer", ARGUMENTS)
    run.note_training("recurrent", 1.5, 640, "10 steps")
    clean = sample.test_images[:3]
    summary = metrics.evaluate(clean, clean / np.float32(255) * 0.9)
    cases = [("degraded", 2, 1.0), ("recurrent", 1, 1.0), ("recurrent", 2, 1.0), ("recurrent", 2, 2.0)]
    records = [
        run.new_record(restorer=name, split="test", summary=summary) | {"setting": count, "drift": drift}
        for name, count, drift in cases
    ]
    run.save_records(records)
    run.update(status="finished")
    releasing.release_run("mine", "small")
    _, card = sequences.load_step("small")
    assert list(card["numbers"]) == ["last frame, as it is", "2 frames, drift 2 times as fast", "1 frame", "2 frames"]
    assert card["task"] == "restores the last of several frames of a drifting camera, each with noise of 50 grey levels"
    assert "smeared" in card["limits"]
    assert "restore FRAME1.png FRAME2.png OUT.png --weights small" in (tmp_path / "weights" / "burst" / "small.md").read_text()
    arguments = ARGUMENTS | {"memory": "average"}
    run.save_model("autoencoder", bursts.burst_restorer(**arguments), "burst_restorer", arguments)
    with pytest.raises(ValueError, match="only a recurrent burst restorer is released; mine has memory 'average'"):
        releasing.release_run("mine", "other")


def test_the_released_weights_restore_a_photograph_from_four_frames():
    step, card = sequences.load_step()
    assert card["versions"]["commit"] and "+changes" not in card["versions"]["commit"] and card["protocol"] == "burst50"
    clean = pictures.photographs()["astronaut"][60:156, 160:258]
    seen = bursts.degrade(clean[None], "burst50", 4)[0]
    one, four = (psnr(clean, sequences.restore(seen[-count:], step)) for count in (1, 4))
    assert one > psnr(clean, seen[-1]) + 8 and four > one + 2
