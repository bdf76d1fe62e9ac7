"""What is counted of networks is what arithmetic by hand gives."""

import json

import pytest
import torch
from click.testing import CliRunner
from torch import nn

from benchmarks.models import CLASSES, NETWORKS, PARTS, Job, Kept, activations, main, make, multiply_adds

SIDE = 32


@pytest.fixture(scope="module")
def located():
    torch.manual_seed(0)
    return make(NETWORKS["located"])


def test_multiply_adds_are_those_by_hand(located):
    found = multiply_adds(located, SIDE)
    pixels, tokens, width, blocks = SIDE**2, SIDE**2 // 16**2, 64, 12
    attention = 2 * tokens**2 * width  # queries with keys, weights with values
    layers = tokens * width * (3 * width + width + 2 * 256)  # queries, keys and values; the way out; MLP
    assert found["overview.blocks"] == blocks * (attention + layers)
    assert found["overview.embedding"] == tokens * 16**2 * width * width
    assert found["overview.upsampling"] == 9 * width**2 * tokens * (1 + 4 + 16 + 64)
    assert found["details.begin"] == 2 * 9 * width**2 * pixels
    assert found["segmentation_head"] == pixels * width * len(CLASSES)
    assert "auxiliary_head" not in found


def test_parts_are_the_whole(located):
    found = multiply_adds(located, SIDE)
    assert sum(found[name] for names in PARTS.values() for name in names) == found[""]


def test_a_convolution_keeps_its_input_once():
    net, image = nn.Conv2d(3, 8, 3), torch.randn(2, 3, SIDE, SIDE)
    kept = Kept(net.parameters())
    with kept:
        net(image) + net(image)
    assert kept.bytes == image.nbytes


def test_windows_keep_alike_and_a_step_the_weights_in_half_precision(located):
    window, step = activations(located, SIDE)
    three = Kept(located.parameters())
    with three:
        Job.make(located, 3, SIDE, "bfloat16").loss()
    assert three.bytes == pytest.approx(3 * window + step, rel=1e-3)
    weights = sum(p.numel() for p in located.parameters())
    assert step == pytest.approx(2 * weights, rel=0.01)


@pytest.mark.slow
def test_the_table_and_its_file(tmp_path):
    options = ["--size", "64", "--batch", "2", "--rounds", "2", "--sizes", "64", "--json", tmp_path / "f"]
    done = CliRunner().invoke(main, [*map(str, options)], catch_exceptions=False)
    found = json.loads((tmp_path / "f").read_text())["networks"]
    assert done.exit_code == 0
    assert list(found) == list(NETWORKS)
    for network in found.values():
        for speed in network["speed"].values():
            assert 0 < speed["min"] <= speed["tiles_per_s"] <= speed["max"]
