"""Ensembles, symmetries, thresholds, the prior, the pixels that count, and what is exported."""

import itertools
import json
import struct
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors import safe_open
from sklearn.metrics import matthews_corrcoef

from glacier.config import Config, shipped
from glacier.errors import GlacierError
from glacier.model.calibration import BINS, COLDEST, HOTTEST, calibration_error, reliability
from glacier.model.losses import CombinedLoss
from glacier.model.metrics import scores
from glacier.pipeline.split import split
from glacier.train import thresholds
from glacier.train.adjust import best_adjustment, choose_adjustment
from glacier.train.average import Average
from glacier.train.ensemble import Ensemble, turned, turned_back
from glacier.train.evaluate import evaluate_runs, evaluate_tiles, judge, no_data, placed
from glacier.train.export import export
from glacier.train.loop import train
from glacier.train.ranks import Ranks
from glacier.train.segmenter import load_run
from glacier.train.thresholds import best_offsets
from glacier.train.trainer import Trainer

ALONE = Ranks(0, 1, torch.device("cpu"))
SMALL = ["data.patch=64", "train.batch=4", "train.samples_per_epoch=32", "train.epochs=2"]
TARGET = "data.target={background=0.25, glacier=0.25, debris=0.3, lake=0.2}"


def config(*settings):
    return Config.load(shipped("demo"), [*SMALL, *settings])


@pytest.fixture(scope="module")
def runs(store, tmp_path_factory) -> list:
    """Two runs of one fold, by different seeds; the second balanced."""
    folder = tmp_path_factory.mktemp("runs")
    train(config(), store, folder / "0", ALONE)
    train(config("train.seed=1", TARGET, "inputs.log=true"), store, folder / "1", ALONE)
    return [load_run(folder / name) for name in "01"]


def test_symmetries_are_eight_and_are_undone():
    image = torch.arange(2 * 3 * 5 * 5.0).reshape(2, 3, 5, 5)
    seen = [turned(image, k) for k in range(8)]
    assert not any(torch.equal(a, b) for a, b in itertools.combinations(seen, 2))
    assert all(torch.equal(turned_back(one, k), image) for k, one in enumerate(seen))


def test_an_ensemble_is_the_mean_of_shares_over_members_and_symmetries(store, runs):
    raw = torch.from_numpy(store.image(3)).permute(2, 0, 1)[None]
    members = [placed(run, store) for run in runs]
    with torch.inference_mode():
        by_hand = [
            turned_back(member(turned(raw, k)).softmax(1), k).numpy()
            for member in members
            for k in range(8)
        ]
        both = Ensemble(members, tta=True)(raw).numpy()
        plain = Ensemble(members[:1])(raw).numpy()
        alone = members[0](raw).softmax(1).numpy()
    np.testing.assert_allclose(both, np.mean(by_hand, axis=0), atol=1e-6)
    np.testing.assert_allclose(plain, alone, atol=1e-7)


def test_with_all_symmetries_a_turned_tile_is_mapped_alike(store, runs):
    raw = torch.from_numpy(store.image(5)).permute(2, 0, 1)[None]
    module = Ensemble([placed(runs[0], store)], tta=True)
    with torch.inference_mode():
        one, two = module(raw), turned_back(module(turned(raw, 5)), 5)
    torch.testing.assert_close(one, two, atol=1e-5, rtol=0)


def test_runs_of_different_folds_are_never_scored_as_held_out(store, runs, tmp_path):
    train(config("train.fold=1", "train.epochs=1"), store, tmp_path / "other", ALONE)
    other = load_run(tmp_path / "other")
    with pytest.raises(
        GlacierError, match="runs of folds 0, 1; each has learnt from what another holds out"
    ):
        evaluate_runs([runs[0], other], store, "val", ALONE)
    assert evaluate_runs([runs[0], other], store, "all", ALONE).scores.pixels == store.histogram.sum()


def test_of_all_pixels_those_without_data_are_background(store, runs):
    tiles = np.arange(len(store))
    labelled = evaluate_tiles(placed(runs[0], store), store, tiles, ALONE)
    every = evaluate_tiles(placed(runs[0], store), store, tiles, ALONE, pixels="all")
    assert every.sum() == len(store) * store.meta.tile_size**2 > labelled.sum()
    gaps = unlabelled = 0
    for tile in range(len(store)):
        raw = store.image(tile)
        codes = np.array([band.nodata for band in store.meta.bands])
        optical = [i for i, band in enumerate(store.meta.bands) if band.role == "optical"]
        missing = (raw == codes)[..., optical].all(axis=-1)
        found = no_data(store, torch.from_numpy(raw).permute(2, 0, 1)[None])[0].numpy()
        np.testing.assert_array_equal(found, missing)
        gaps += missing.sum()
        unlabelled += (store.label(tile) == 255).sum()
    assert gaps > 0
    assert every.sum(axis=1)[0] == labelled.sum(axis=1)[0] + unlabelled
    np.testing.assert_array_equal(every[1:].sum(axis=1), labelled[1:].sum(axis=1))


def test_offsets_are_the_best_of_an_exhaustive_search():
    """Two classes: every threshold tried by scikit-learn."""
    rng = np.random.default_rng(0)
    truth = (rng.random(3000) < 0.15).astype(int)
    margin = rng.normal(size=3000) + 1.5 * truth
    found = torch.tensor(np.stack((np.zeros(3000), margin), axis=1), dtype=torch.float32)
    (zero, offset) = best_offsets(found, torch.from_numpy(truth), ALONE)
    tried = {round(o, 1): matthews_corrcoef(truth, margin + o > 0) for o in np.arange(-3, 3.05, 0.1)}
    assert zero == 0
    assert tried[round(offset, 1)] == pytest.approx(max(tried.values()), abs=2e-3)
    assert max(tried.values()) > tried[0.0] + 0.02


def test_a_sample_of_pixels_is_all_that_is_kept(store, runs, monkeypatch):
    tiles, segmenter, kept = split(store, 0).val, placed(runs[0], store), []
    every, classes = thresholds.sample_scores(segmenter, store, tiles, ALONE)
    np.testing.assert_array_equal(
        torch.bincount(classes, minlength=4), store.histogram[tiles].sum(axis=(0, 1, 2))
    )
    monkeypatch.setattr(thresholds, "PIXELS", len(every) // 3)
    spy = SimpleNamespace(
        cat=lambda parts: kept.extend(parts) or torch.cat(parts), zeros=torch.zeros, long=torch.long
    )
    monkeypatch.setattr(thresholds, "torch", spy)
    some, _ = thresholds.sample_scores(segmenter, store, tiles, ALONE)
    assert 0.9 * len(every) / 4 < len(some) < 1.1 * len(every) / 3
    assert all(part.untyped_storage().nbytes() <= 8 * max(part.numel(), 1) for part in kept)


def test_scores_that_are_no_numbers_choose_nothing(store, runs):
    tiles, segmenter = split(store, 0).val, placed(runs[0], store)
    first = torch.tensor([0])
    segmenter.network.register_forward_hook(lambda net, given, out: out.index_fill(3, first, torch.nan))
    found, truth = thresholds.sample_scores(segmenter, store, tiles, ALONE)
    assert found.isfinite().all()
    assert len(truth) == sum((store.label(tile)[:, 1:] != 255).sum() for tile in tiles)


def test_offsets_never_make_it_worse():
    rng = np.random.default_rng(1)
    for seed in range(5):
        truth = torch.from_numpy(rng.integers(0, 4, 2000))
        found = (
            torch.randn(2000, 4, generator=torch.Generator().manual_seed(seed)) + 2 * torch.eye(4)[truth]
        )
        found[:, 1] -= 1.0
        offsets = best_offsets(found, truth, ALONE)
        before, after = (
            matthews_corrcoef(truth, (found + torch.tensor(o)).argmax(1)) for o in ([0.0] * 4, offsets)
        )
        assert after >= before
        assert offsets[1] > 0.3
    assert best_offsets(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long), ALONE) == [0.0] * 4


def test_the_prior_undoes_what_balancing_shifted(store, runs):
    trainer = Trainer(config(TARGET), store, ALONE)
    plan = trainer.loader.plan
    ratio = plan.natural / plan.reached
    found = np.exp(trainer.prior(0))
    np.testing.assert_allclose(found / found[0], ratio / ratio[0])
    assert np.mean(trainer.prior(0)) == pytest.approx(0, abs=1e-12)
    assert runs[1].prior == pytest.approx(trainer.prior(0), abs=1e-6)
    assert runs[0].prior == (0.0,) * 4
    assert Trainer(config(TARGET, "train.correct_prior=false"), store, ALONE).prior(0) == (0.0,) * 4


def test_an_annealed_epochs_prior_is_its_own_mixs(store):
    mild = "data.target={background=0.4, glacier=0.3, debris=0.28, lake=0.02}"
    trainer = Trainer(config(mild, "data.anneal=0.5", "train.epochs=4"), store, ALONE)
    assert np.abs(trainer.prior(0)).max() > np.abs(trainer.prior(2)).max() > 0
    assert trainer.prior(3) == pytest.approx((0.0,) * 4, abs=1e-9)


def test_the_offset_shifts_scores_and_nothing_else(store, runs):
    raw = torch.from_numpy(store.image(3)).permute(2, 0, 1)[None]
    shifted, difference = [0.0, 1.0, -2.0, 0.5], torch.tensor([0.0, 1.0, -2.0, 0.5])
    one, two = (placed(run, store) for run in (runs[1].unadjusted(), runs[1].adjusted(shifted, 1.0)))
    with torch.inference_mode():
        plain, other = one(raw), two(raw)
    torch.testing.assert_close(other - plain, difference[:, None, None].expand_as(plain), atol=1e-5, rtol=0)


def test_validation_loss_is_that_of_all_tiles_at_once(store, runs):
    segmenter, tiles = placed(runs[0], store), split(store, 0).val
    loss = CombinedLoss({"focal": 0.5, "dice": 0.3, "mcc": 0.2}, store.meta.class_names)
    judged = judge(segmenter, store, tiles, ALONE, loss, 0)
    raw = torch.from_numpy(np.stack([store.image(t) for t in tiles])).permute(0, 3, 1, 2)
    label = torch.from_numpy(np.stack([store.label(t) for t in tiles]))
    with torch.inference_mode():
        target = loss.target(label)
        whole = loss.combine(loss.terms(loss.sums(segmenter(raw), target), loss.weight(target)), 0)
    assert judged.loss == pytest.approx(float(whole), rel=1e-5)
    np.testing.assert_array_equal(judged.matrix, evaluate_tiles(segmenter, store, tiles, ALONE))


def test_the_average_trails_the_weights():
    network = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    average, expected = Average(network, 0.99), [v.detach().clone() for v in network.state_dict().values()]
    for step in range(1, 300):
        with torch.no_grad():
            for value in network.state_dict().values():
                value.add_(1)
        average.update(network, step)
        keep = min(0.99, (1 + step) / (10 + step))
        expected = [
            keep * e + (1 - keep) * v if v.is_floating_point() else v.clone()
            for e, v in zip(expected, network.state_dict().values(), strict=True)
        ]
    for found, value in zip(average.network.state_dict().values(), expected, strict=True):
        torch.testing.assert_close(found, value, rtol=1e-5, atol=1e-4)
    assert not any(p.requires_grad for p in average.network.parameters())


def test_without_an_average_the_network_itself_is_judged(store):
    trainer = Trainer(config("train.ema=0"), store, ALONE)
    assert trainer.average.network is trainer.segmenter.network


def test_an_export_scores_as_the_run_and_is_half_its_size(store, runs, tmp_path):
    path = tmp_path / "sub" / "run.safetensors"
    size = export(runs[1], path)
    weights = sum(v.numel() for v in runs[1].weights.values())
    assert size == path.stat().st_size < 2.2 * weights + 100_000
    again = load_run(path)
    assert json.dumps(again.about()) == json.dumps(runs[1].about())
    one, two = (evaluate_runs([run], store, "val", ALONE).scores.mcc for run in (runs[1], again))
    assert two == pytest.approx(one, abs=1e-3)
    with safe_open(path, framework="pt") as file:
        about = json.loads(file.metadata()["glacier"])
    assert [band["name"] for band in about["bands"]] == store.meta.band_names
    assert [c["name"] for c in about["classes"]] == store.meta.class_names


def test_weights_beyond_half_precisions_range_stay_whole(runs, tmp_path):
    large = {k: v * 1e6 if "running_var" in k else v for k, v in runs[0].weights.items()}
    changed = load_run_with(runs[0], large)
    export(changed, tmp_path / "x.safetensors")
    again = load_run(tmp_path / "x.safetensors").weights
    assert all(torch.isfinite(v).all() for v in again.values() if v.is_floating_point())


def load_run_with(run, weights):
    from dataclasses import replace

    return replace(run, weights=weights)


def resnet34(*settings):
    return config("model.encoder=resnet34", "model.decoder_channels=[]", *settings)


def test_a_resnet34_unet_exports_below_50_mb(store, tmp_path):
    """By its weights at random: they are as many as learnt ones, and halved as those are."""
    whole = Trainer(resnet34(), store, ALONE).trained(0, 0.0)
    assert 24e6 < sum(v.numel() for v in whole.weights.values()) < 25e6
    assert export(whole, tmp_path / "r.safetensors") < 50e6
    again = load_run(tmp_path / "r.safetensors").weights
    assert again.keys() == whole.weights.keys()
    assert all(torch.equal(again[k], v.half().to(v.dtype)) for k, v in whole.weights.items())


@pytest.mark.slow
def test_a_trained_resnet34_unet_exports_below_50_mb_and_scores_as_the_run(store, tmp_path):
    settings = resnet34("train.samples_per_epoch=128", "train.epochs=1", "train.lr=1e-3")
    train(settings, store, tmp_path / "run", ALONE)
    whole = load_run(tmp_path / "run")
    assert export(whole, tmp_path / "r.safetensors") < 50e6
    runs = whole, load_run(tmp_path / "r.safetensors")
    one, two = (evaluate_runs([run], store, "val", ALONE).scores.mcc for run in runs)
    assert one > 0.2
    assert two == pytest.approx(one, abs=1e-3)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "no such file; make it with `glacier export"),
        (b"", "not an export of a run"),
        (b"not much", "not an export of a run"),
        (struct.pack("<Q", 2**40) + b"{}", "not an export of a run"),
        (struct.pack("<Q", 2) + b"{}", "not an export of a run"),
    ],
)
def test_what_is_no_export_is_named(tmp_path, content, words):
    path = tmp_path / "x.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(GlacierError, match=words):
        load_run(path)


def test_another_name_is_refused(runs, tmp_path):
    with pytest.raises(GlacierError, match=r"expected a name that ends in .safetensors"):
        export(runs[0], tmp_path / "x.pt")


def test_scores_with_thresholds_are_at_least_as_good_on_the_fold_they_were_chosen_on(store, runs):
    for run in runs:
        assert any(run.thresholds)
        tiles = split(store, 0).val
        matrix = evaluate_tiles(placed(run, store), store, tiles, ALONE)
        assert scores(matrix, run.class_names).mcc >= run.mcc - 1e-4


def test_a_run_ends_with_the_temperature_that_its_adjusted_scores_ask_for(store, runs):
    """Once divided by it, they ask for 1."""
    run, tiles = runs[1], split(store, 0).val
    assert run.temperature != 1
    assert COLDEST < run.temperature < HOTTEST
    found, truth = thresholds.sample_scores(placed(run, store), store, tiles, ALONE)
    again = best_adjustment(found, truth, ALONE, thresholds=False)
    assert again.temperature == pytest.approx(1, abs=1e-4)
    plain = torch.nn.functional.cross_entropy(found * run.temperature, truth)
    assert torch.nn.functional.cross_entropy(found, truth) < plain


def test_thresholds_and_temperature_are_chosen_together_or_the_temperature_alone(store, runs):
    run, tiles = runs[1], split(store, 0).val
    plain = placed(run.unadjusted(), store)
    both = choose_adjustment(plain, store, tiles, ALONE, thresholds=True)
    assert (tuple(both.thresholds), both.temperature) == (run.thresholds, run.temperature)
    alone = choose_adjustment(plain, store, tiles, ALONE, thresholds=False)
    assert alone.thresholds == [0.0] * 4
    assert alone.temperature not in (1, both.temperature)
    rated = evaluate_runs([run], store, "val", ALONE)
    assert both.before == pytest.approx(rated.error_before, abs=1e-6)
    assert both.after == pytest.approx(rated.error_after, abs=1e-6)


def test_without_thresholds_a_training_ends_with_a_temperature_all_the_same(store, tmp_path, capsys):
    settings = ("train.thresholds=false", "train.epochs=1", "train.samples_per_epoch=4")
    train(config(*settings), store, tmp_path / "run", ALONE)
    run = load_run(tmp_path / "run")
    assert run.thresholds == (0.0,) * 4
    assert run.temperature != 1
    assert (
        f"chosen on fold 0: temperature {run.temperature:.2f}, calibration error "
        in capsys.readouterr().err
    )


def test_a_temperature_changes_no_class(store, runs):
    tiles = np.arange(len(store))
    hot, cold = (placed(runs[0].adjusted(runs[0].thresholds, t), store) for t in (5.0, 0.3))
    one, two = (evaluate_tiles(module, store, tiles, ALONE) for module in (hot, cold))
    np.testing.assert_array_equal(one, two)


def test_an_ensembles_calibration_is_that_of_its_mean_shares_before_and_after(store, runs):
    rated = evaluate_runs(runs, store, "val", ALONE, pixels="all")
    hot = [run.adjusted(run.thresholds, 1.0) for run in runs]
    for members, found in ((hot, rated.before), (runs, rated.after)):
        module = Ensemble([placed(run, store) for run in members]).eval()
        table = torch.zeros(3, BINS, dtype=torch.float64)
        for tile in split(store, 0).val:
            with torch.inference_mode():
                shares = module(torch.from_numpy(store.image(tile)).permute(2, 0, 1)[None])
            table += reliability(torch.from_numpy(store.label(tile))[None], shares)
        np.testing.assert_allclose(found, table, atol=3)  # a pixel at a bin's edge may be in the next
        assert calibration_error(found) == pytest.approx(calibration_error(table.numpy()), abs=1e-4)
        assert found[0].sum() == store.histogram[split(store, 0).val].sum()
    record = rated.to_json()
    assert record["calibration"] == {
        "before": rated.error_before,
        "after": rated.error_after,
        "temperatures": [run.temperature for run in runs],
    }
    assert json.loads(json.dumps(record))["mcc"] == rated.scores.mcc
