"""Starting from another run: bands and classes by name."""

from dataclasses import replace

import pytest
import torch

from glacier.config import Config, shipped
from glacier.errors import GlacierError
from glacier.model.networks import network
from glacier.train.loop import train
from glacier.train.ranks import Ranks
from glacier.train.segmenter import Trained, load_run
from glacier.train.trainer import Trainer
from glacier.train.transfer import transfer

ALONE = Ranks(0, 1, torch.device("cpu"))
SMALL = ["data.patch=64", "train.batch=4", "train.samples_per_epoch=8", "train.epochs=1"]
CLASSES = ["background", "glacier", "debris", "lake"]


def config(*settings):
    return Config.load(shipped("demo"), [*SMALL, *settings])


@pytest.fixture(scope="module")
def source(store, tmp_path_factory) -> Trained:
    """A run on three bands and a validity plane."""
    out = tmp_path_factory.mktemp("source") / "run"
    train(config('data.bands=["blue","red","thermal"]', "inputs.validity=true"), store, out, ALONE)
    return load_run(out)


ROLES = dict.fromkeys(("blue", "red", "nir", "contrast nir"), "optical") | {
    "thermal": "thermal",
    "validity": "other",
}


def made(config, channels, classes=4):
    return network(config.model, roles=[*channels.values()], classes=classes, window=config.data.patch)


def test_bands_keep_their_weights_by_name_and_new_ones_take_the_mean(source):
    channels = {name: ROLES[name] for name in ("thermal", "nir", "blue", "validity", "contrast nir")}
    net = made(source.config, channels)
    transfer(source, net, source.config.model, channels, CLASSES)
    new, old = net.state_dict(), source.weights
    first = next(name for name, value in new.items() if value.ndim == 4)
    assert [*source.channels] == ["blue", "red", "thermal", "validity"]
    mean = old[first][:, :3].mean(dim=1)
    expected = [old[first][:, 2], mean, old[first][:, 0], old[first][:, 3], mean]
    torch.testing.assert_close(new[first], torch.stack(expected, dim=1))
    for name, value in new.items():
        if name != first:
            assert torch.equal(value, old[name]), name


def test_the_same_bands_and_classes_give_the_same_network(source):
    net = made(source.config, source.channels)
    transfer(source, net, source.config.model, source.channels, CLASSES)
    assert all(torch.equal(value, source.weights[name]) for name, value in net.state_dict().items())


def test_classes_keep_their_heads_by_name_and_new_ones_start_anew(source):
    net = made(source.config, source.channels, classes=3)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    transfer(source, net, source.config.model, source.channels, ["lake", "snow", "background"])
    for part in ("weight", "bias"):
        new, old = (
            net.state_dict()[f"segmentation_head.0.{part}"],
            source.weights[f"segmentation_head.0.{part}"],
        )
        assert torch.equal(new[0], old[3])
        assert torch.equal(new[1], before[f"segmentation_head.0.{part}"][1])
        assert torch.equal(new[2], old[0])


@pytest.mark.parametrize(
    ("bands", "words"),
    [
        ('["blue","red"]', None),
        (
            '["blue","swir1"]',
            "1 of 2 bands (swir1) are not among those of the run to start from (blue, red, th",
        ),
        ('["green","swir1"]', "2 of 2 bands (green, swir1) are not among"),
    ],
)
def test_what_takes_the_mean_is_said_once_by_the_main_rank(source, store, tmp_path, capsys, bands, words):
    train(config(f"data.bands={bands}"), store, tmp_path, ALONE, init=source)
    said = capsys.readouterr().err
    assert said.count("warning: --init: ") == (words is not None)
    assert (words or "") in said


def test_another_model_is_refused_by_name(source):
    other = replace(source.config.model, encoder="resnet18", decoder_channels=())
    net = made(replace(source.config, model=other), source.channels)
    with pytest.raises(
        GlacierError, match="--init: a run of unet with tu-tf_mobilenetv3.* is unet with resnet18"
    ):
        transfer(source, net, other, source.channels, CLASSES)


def test_statistics_are_those_of_the_new_tiles(source, store):
    trainer = Trainer(config("train.fold=1"), store, ALONE, source)
    assert trainer.statistics[0] != source.statistics[0]
    assert [*trainer.segmenter.features.channels] == store.meta.band_names
    averaged = trainer.average.network.state_dict()
    assert all(torch.equal(v, averaged[k]) for k, v in trainer.segmenter.network.state_dict().items())


def test_a_frozen_encoder_stays_and_then_moves(source, store):
    settings = config("train.freeze_encoder=1", "train.epochs=2", 'data.bands=["blue","red","thermal"]')
    trainer = Trainer(settings, store, ALONE, source)
    encoder = trainer.segmenter.network.encoder
    before = {k: v.clone() for k, v in encoder.state_dict().items()}
    head = trainer.segmenter.network.segmentation_head[0].weight.detach().clone()
    list(trainer.train(lambda: None))
    assert all(torch.equal(v, before[k]) for k, v in encoder.state_dict().items())
    assert not torch.equal(trainer.segmenter.network.segmentation_head[0].weight, head)
    list(trainer.train(lambda: None))
    assert not all(torch.equal(v, before[k]) for k, v in encoder.state_dict().items())


def test_a_new_validity_plane_counts_for_nothing(store, tmp_path):
    train(config("train.epochs=1"), store, tmp_path / "plain", ALONE)
    plain = load_run(tmp_path / "plain")
    channels = plain.channels | {"validity": "other"}
    net = made(plain.config, channels)
    transfer(plain, net, plain.config.model, channels, CLASSES)
    old = made(plain.config, plain.channels)
    old.load_state_dict(plain.weights)
    image, plane = torch.randn(1, 7, 64, 64), torch.ones(1, 1, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(net.eval()(torch.cat((image, plane), 1)), old.eval()(image))
