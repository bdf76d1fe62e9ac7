"""Every command that a page shows is run, on the synthetic twin of what it is meant for."""

import re
from pathlib import Path

from glacier.store.reader import Store
from tests.integration.test_hkh import in_a_shell

DOCS = Path(__file__).resolve().parents[2] / "docs"


def test_the_page_of_ingest(tmp_path):
    blocks = re.findall(r"```sh\n(.*?)```", (DOCS / "ingest.md").read_text(), re.S)
    assert len(blocks) == 4
    for command in "".join(blocks).strip().splitlines():
        in_a_shell(command, tmp_path)
    tiles = {path.stem: len(Store(path)) for path in tmp_path.glob("*.zarr")}
    assert tiles["tiles"] == tiles["plain"] == 9
    assert tiles["scenes"] == 12 + 9
    assert tiles["dense"] > 12
    with Store(tmp_path / "dense.zarr") as dense, Store(tmp_path / "plain.zarr") as plain:
        assert dense.meta.band_names[-3:] == ["glcm_contrast", "glcm_entropy", "glcm_homogeneity"]
        assert plain.meta.band_names == ["blue", "green", "red", "swir1", "thermal"]
