"""Starting from another run: bands and classes by name."""

from dataclasses import replace

import pytest
import torch

from glacier.config import Config, shipped
from glacier.errors import GlacierError
from glacier.model.glavitu import ENTRANCES, resized
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


@pytest.fixture(scope="module")
def glavitu(store) -> Trained:
    """GlaViTU's weights at random, made for three bands of two roles, four classes and windows of 64 px."""
    settings = config("model.arch=glavitu", 'data.bands=["blue","red","thermal"]')
    return Trainer(settings, store, ALONE).trained(0, 0.0)


def test_glavitus_branches_are_matched_by_role_and_name_its_positions_resized_both_heads_by_class(glavitu):
    channels = {name: ROLES.get(name, "texture") for name in ("thermal", "nir", "blue", "glcm_contrast")}
    settings = config("model.arch=glavitu", "model.location=true", "data.patch=32")
    net = made(settings, channels, classes=3)
    before, old = {k: v.clone() for k, v in net.state_dict().items()}, glavitu.weights
    transfer(glavitu, net, settings.model, channels, ["lake", "snow", "background"])
    new = net.state_dict()
    optical = "fusion.branches.optical.convolutions.0.weight"
    expected = {optical: torch.stack((old[optical].mean(dim=1), old[optical][:, 0]), dim=1)}
    expected["overview.positions"] = resized(old["overview.positions"], (2, 2))
    for part in ("segmentation_head.weight", "segmentation_head.bias", "auxiliary_head.weight",
                 "auxiliary_head.bias"):  # fmt: skip
        expected[part] = torch.stack((old[part][3], before[part][1], old[part][0]))
    for name, value in new.items():
        anew = name.startswith(("fusion.branches.texture.", "location."))
        if anew and name.endswith(ENTRANCES):
            assert not value.any(), name
            continue
        assert torch.equal(value, expected.get(name, (before if anew else old).get(name))), name
    assert set(expected) <= set(new)
    assert any(name.startswith("fusion.branches.texture.") for name in new)


def test_glavitu_of_the_same_bands_classes_and_windows_is_the_same(glavitu):
    net = made(glavitu.config, glavitu.channels)
    transfer(glavitu, net, glavitu.config.model, glavitu.channels, CLASSES)
    assert all(torch.equal(value, glavitu.weights[name]) for name, value in net.state_dict().items())


def test_glavitu_starts_from_a_run_with_other_bands_and_classes_and_trains(glavitu, store):
    """As `--init` does: roles that the run had not begin anew."""
    trainer = Trainer(config("model.arch=glavitu", "data.patch=32", "train.batch=2"), store, ALONE, glavitu)
    net = trainer.segmenter.network
    name = "fusion.branches.thermal.convolutions.0.weight"
    assert torch.equal(net.state_dict()[name], glavitu.weights[name])
    assert torch.isfinite(trainer.step(list(trainer.loader)[:1], 0))


def test_a_new_role_and_a_location_count_for_nothing_at_first(glavitu):
    channels = glavitu.channels | {"glcm_contrast": "texture", "validity": "other"}
    settings = config("model.arch=glavitu", "model.location=true")
    net, old = made(settings, channels), made(glavitu.config, glavitu.channels)
    transfer(glavitu, net, settings.model, channels, CLASSES)
    old.load_state_dict(glavitu.weights)
    image, place = torch.randn(1, 5, 64, 64), torch.tensor([[86.9, 28.0]])
    with torch.inference_mode():
        torch.testing.assert_close(net.eval()(image, place), old.eval()(image[:, :3]))


@pytest.mark.parametrize(("arch", "was"), [("glavitu", "unet"), ("unet", "glavitu")])
def test_another_architecture_is_refused_by_name(glavitu, source, arch, was):
    run = glavitu if was == "glavitu" else source
    settings = config(f"model.arch={arch}")
    net = made(settings, run.channels)
    with pytest.raises(GlacierError, match=f"--init: a run of {was}.*; this one is {arch}"):
        transfer(run, net, settings.model, run.channels, CLASSES)
