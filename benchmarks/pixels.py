"""What a network has to beat: classifiers of single pixels, on the folds that `glacier train` uses.

    glacier ingest everest_landsat7 --tile-size 128 --folds 3
    python benchmarks/pixels.py everest_landsat7.zarr

Two sets of features: the bands; and with them their logarithms and, at 2 and 8 px, the Gaussian mean and
deviation of each band within the tile.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from glacier.classes import IGNORE
from glacier.model.metrics import Scores, scores
from glacier.pipeline.split import split
from glacier.store.reader import Store

PIXELS = 200_000
"""Of the training tiles, at most."""
MODELS: dict[str, Callable[[], Any]] = {
    "logistic regression": lambda: make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)),
    "gradient boosting": lambda: HistGradientBoostingClassifier(max_iter=100, random_state=0),
}


def pixels(store: Store, tiles: NDArray[np.int64], around: bool) -> tuple[NDArray[Any], NDArray[Any]]:
    """Features (n, F) and classes (n,) of all labelled pixels of some tiles."""
    features, truth = [], []
    for tile in tiles:
        raw, label = store.image(int(tile)), store.label(int(tile))
        bands = [band.unpack(raw[..., i]) for i, band in enumerate(store.meta.bands)]
        planes = [np.where(np.isnan(b), np.nanmean(b) if np.isfinite(b).any() else 0, b) for b in bands]
        if around:
            planes += [extra for plane in list(planes) for extra in surroundings(plane)]
        held = label != IGNORE
        features.append(np.stack(planes, axis=-1)[held].astype(np.float32))
        truth.append(label[held])
    return np.concatenate(features), np.concatenate(truth)


def surroundings(plane: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    """The logarithm, and mean and deviation at two scales."""
    found = [np.log(np.maximum(plane, 1))]
    for sigma in (2, 8):
        mean = gaussian_filter(plane, sigma)
        found += [mean, np.sqrt(np.maximum(gaussian_filter(plane**2, sigma) - mean**2, 0))]
    return found


def score(store: Store, fold: int, model: Any, around: bool) -> Scores:
    """Of a classifier on the labelled pixels of the fold held out."""
    parts = split(store, fold)
    features, truth = pixels(store, parts.train, around)
    chosen = np.random.default_rng(0).permutation(len(truth))[:PIXELS]
    model.fit(features[chosen], truth[chosen])
    unseen, expected = pixels(store, parts.val, around)
    classes = len(store.meta.classes)
    cell = expected.astype(np.int64) * classes + model.predict(unseen)
    matrix = np.bincount(cell, minlength=classes**2).reshape(classes, classes)
    return scores(matrix, store.meta.class_names)


def main() -> None:
    """Print a row per classifier and set of features."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("store", type=Path)
    store = Store(parser.parse_args().store)
    folds, last = range(store.meta.folds), store.meta.class_names[-1]
    print(f"| | {' | '.join(f'fold {k}' for k in folds)} | mean MCC | mean IoU | IoU {last} |")
    print("|" + "---|" * (len(folds) + 4))
    for around in (False, True):
        for name, make in MODELS.items():
            found = [score(store, fold, make(), around) for fold in folds]
            means = [
                np.mean([one.mcc for one in found]),
                np.mean([one.mean_iou for one in found]),
                np.mean([one.classes[last].iou for one in found]),
            ]
            cells = [f"{value:.3f}" for value in (*(one.mcc for one in found), *means)]
            print(
                f"| {name}, {'bands and surroundings' if around else 'bands'} | {' | '.join(cells)} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
