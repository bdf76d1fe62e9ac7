"""GlaViTU in training: it learns, its second head is supervised, its runs are kept, exported and scored."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch.nn import functional

from glacier.config import Config, shipped
from glacier.model.metrics import confusion, scores
from glacier.train.evaluate import evaluate_runs
from glacier.train.export import export
from glacier.train.ranks import Ranks
from glacier.train.segmenter import load_run
from glacier.train.trainer import Trainer
from tests.helpers import make_store, one_line, write_raster

ALONE = Ranks(0, 1, torch.device("cpu"))
SMALL = [
    "data.patch=32", "data.augment=none", "train.batch=2", "train.samples_per_epoch=96", "train.lr=1e-3",
    "train.ema=0", "data.target={background=0.25, glacier=0.25, debris=0.3, lake=0.2}",
    "loss.terms={cross_entropy=1.0}", "model.arch=glavitu", "model.location=true",
]  # fmt: skip


def config(*settings):
    return Config.load(shipped("demo"), [*SMALL, *settings])


def batch_of(trainer):
    """Of an epoch's batches that whose second rarest class has the most pixels."""
    return max(trainer.loader, key=lambda b: np.sort(np.bincount(b.label.flatten(), minlength=256)[:4])[1])


def seen(trainer, batch) -> tuple:
    """What the network is given."""
    return trainer.segmenter.features(batch.image), trainer._places[batch.samples["tile"]]


@pytest.fixture(scope="module")
def learnt(store) -> tuple:
    """A trainer that took the same two windows of three classes 20 times, and these."""
    trainer = Trainer(config(), store, ALONE)
    batch = batch_of(trainer)
    assert len(batch.label.unique()) >= 3
    trainer._train_mode()
    for _ in range(20):
        trainer.step([batch], 0)
    trainer.segmenter.eval()
    return trainer, batch


def mcc(found, label) -> float:
    return scores(confusion(label, found.argmax(dim=1), 4).numpy(), list("abcd")).mcc


def test_one_batch_is_learnt_by_heart(learnt):
    """Scored in evaluation mode: batch norm by its running statistics, no dropout."""
    trainer, batch = learnt
    with torch.inference_mode():
        assert mcc(trainer.segmenter.network(*seen(trainer, batch)), batch.label) >= 0.99


@pytest.mark.parametrize(("part", "least"), [("blocks", 1e-3), ("first stage", 0.1)])
def test_what_it_has_learnt_rests_on_its_transformer(learnt, part, least):
    """Left out, something else is said; little else without the blocks, of the 2 x 2 tokens here."""
    trainer, batch = learnt
    network = trainer.segmenter.network
    if part == "blocks":
        left_out = network.overview.blocks, lambda module, given, out: given[0]
    else:
        left_out = network.overview, lambda module, given, out: torch.zeros_like(out)
    with torch.inference_mode():
        whole = network(*seen(trainer, batch))
        with left_out[0].register_forward_hook(left_out[1]):
            without = network(*seen(trainer, batch))
    assert (whole.softmax(dim=1) - without.softmax(dim=1)).abs().max() > least


def test_a_run_is_kept_to_the_last_bit(learnt, tmp_path):
    trainer, batch = learnt
    trainer.trained(0, 1.0).save(tmp_path)
    run = load_run(tmp_path)
    weights = trainer.segmenter.network.state_dict()
    assert run.weights.keys() == weights.keys()
    assert all(torch.equal(value, weights[name]) for name, value in run.weights.items())
    with torch.inference_mode():
        one, two = (s.network(*seen(trainer, batch)) for s in (trainer.segmenter, run.segmenter()))
    assert torch.equal(one, two)


def test_an_export_scores_as_the_halved_weights_and_is_evaluated(learnt, store, call, tmp_path):
    """On tiles of another side than its windows; told where they lie."""
    trainer, _ = learnt
    run = trainer.trained(0, 1.0)
    path = tmp_path / "glavitu.safetensors"
    export(run, path)
    with safe_open(path, framework="pt") as file:
        halves = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    assert halves.keys() == run.weights.keys()
    again = load_run(path)
    for name, value in run.weights.items():
        assert torch.equal(
            again.weights[name], value.half().float() if value.is_floating_point() else value
        )
    tile, place = torch.from_numpy(store.image(3)).permute(2, 0, 1)[None], trainer._places[3:4]
    with torch.inference_mode():
        one, two = (r.segmenter()(tile, place).softmax(1) for r in (run, again))
    torch.testing.assert_close(one, two, atol=2e-2, rtol=0)
    expected = evaluate_runs([again], store, "val", ALONE).scores
    said = json.loads(call("evaluate", path, "--store", store.path, "--json").stdout)
    assert said["mcc"] == pytest.approx(expected.mcc, abs=1e-6)


@pytest.mark.parametrize("auxiliary", [0.5, 0.0])
def test_a_steps_gradient_is_that_of_the_scores_and_half_of_the_auxiliary_heads(store, auxiliary):
    """By PyTorch's own cross-entropy; with the dropout that seed and step give."""
    trainer = Trainer(config(f"loss.auxiliary={auxiliary}", "train.clip=0"), store, ALONE)
    batch = batch_of(trainer)
    network = trainer.segmenter.network
    trainer._train_mode()
    trainer._seed()
    heads = network(*seen(trainer, batch))
    main, further = (functional.cross_entropy(h, batch.label.long(), ignore_index=255) for h in heads)
    expected = torch.autograd.grad(main + auxiliary * further, [*network.parameters()], allow_unused=True)
    loss = trainer.step([batch], 0)
    assert float(loss) == pytest.approx(main.item(), rel=1e-5)
    for (name, parameter), by_hand in zip(network.named_parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, by_hand, atol=2e-5, rtol=1e-3, msg=name)
    assert bool(network.auxiliary_head.weight.grad.any()) == bool(auxiliary)


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("data.patch=48", "data.patch: 48 px, expected a multiple of 32 up to the tile's 64 px"),
        ("train.freeze_encoder=1", "train.freeze_encoder: glavitu has no encoder; leave it out"),
        ("model.arch=unet", "model.location: unet takes no location; expected false, or .* glavitu"),
    ],
)
def test_settings_that_do_not_fit_are_one_line(call, store, setting, words):
    settings = [word for text in (*SMALL, setting) for word in ("--set", text)]
    said = one_line(call("train", "--config", "demo", "--store", store.path, *settings), 2)
    assert re.search(words, said)


def test_located_it_trains_and_is_scored_by_command(call, store):
    settings = [
        word
        for text in (*SMALL, "train.epochs=1", "train.samples_per_epoch=4", "train.thresholds=false")
        for word in ("--set", text)
    ]
    assert (
        call("train", "--config", "demo", "--store", store.path, "--out", "run", *settings).exit_code == 0
    )
    said = json.loads(call("evaluate", "run", "--store", store.path, "--json").stdout)
    assert load_run(Path("run")).config.model.location
    assert -1 <= said["mcc"] <= 1


def test_a_scene_without_a_place_is_named(call, tmp_path):
    rng = np.random.default_rng(0)
    pixels, label = rng.integers(1, 99, (2, 160, 160)), rng.integers(0, 2, (160, 160))
    write_raster(tmp_path / "in" / "s.tif", pixels.astype(np.uint8), crs=None, names=("red", "nir"))
    write_raster(tmp_path / "in" / "s_label.tif", label.astype(np.uint8), crs=None)
    store = make_store(tmp_path / "in", tmp_path / "s.zarr", tile_size=32, classes="0=a,1=b")
    settings = [word for text in (*SMALL, "data.target={}") for word in ("--set", text)]
    said = one_line(call("train", "--config", "demo", "--store", store.path, *settings), 1)
    assert "scene s has no CRS, expected one for model.location; train without it" in said
