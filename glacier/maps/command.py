"""What `glacier predict` does around the mapping of each scene: a run, a source, a folder of maps."""

import time
from pathlib import Path

from glacier import console
from glacier.errors import GlacierError
from glacier.maps.predict import predict_scene, selection, write_map
from glacier.scenes.layouts import Layout, find_scenes
from glacier.train.ranks import join_ranks
from glacier.train.segmenter import load_run


def predict_all(run: Path, source: Path, out: Path, layout: Layout = "auto", glcm: str = "") -> list[Path]:
    """Map every scene of a source, or a rank's share of them; the maps' paths, `OUT/SCENE.tif`.

    Raises:
        GlacierError: no such run or source, bands that are missing, or `out` is not empty.
    """
    trained = load_run(run)
    scenes = find_scenes(source, layout=layout, labelled=False, glcm=glcm, bands=selection(trained))
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise GlacierError(f"{out}: exists and is not empty; give a new folder for the maps")
    written = []
    with join_ranks() as ranks:
        segmenter = trained.segmenter().to(ranks.device)
        ranks.wait()  # until all have seen that `out` is empty
        out.mkdir(parents=True, exist_ok=True)
        start, pixels = time.perf_counter(), 0
        for scene in scenes[ranks.rank :: ranks.world]:
            classes, clipped = predict_scene(trained, segmenter, scene, ranks.device, console.bar)
            if clipped:
                console.warn(
                    f"scene {scene.name}: {100 * clipped:.2g} % of values are beyond the range of the "
                    "run's store and count as its nearest end"
                )
            written.append(out / f"{scene.name}.tif")
            write_map(written[-1], classes, scene, trained.classes)
            pixels += classes.size
    speed = pixels / 1e6 / (time.perf_counter() - start)
    console.note(f"{out}: {len(written)} map{'s' * (len(written) > 1)}, {speed:.2f} Mpx/s")
    return written
