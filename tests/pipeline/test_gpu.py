"""The graph on a GPU: checked statically here, run where CUDA is."""

import re

import numpy as np
import nvidia.dali.backend as backend
import pytest
import torch
from nvidia.dali import Pipeline

from glacier.pipeline import graph as module
from glacier.pipeline.augment import Augment, d4, matrices
from glacier.pipeline.buffer import Buffer
from glacier.pipeline.inputs import Constants
from glacier.pipeline.loader import Loader
from glacier.pipeline.reference import reference_graph
from tests.pipeline.test_graph import check_affine, windows


@pytest.mark.parametrize("interpolates", [False, True])
def test_every_operator_of_the_graph_exists_for_the_gpu_and_stands_there(interpolates):
    """Read off the graph as it is built for a GPU, which needs none until it is run."""
    constants = Constants(*(np.ones(3, np.float32),) * 2, np.ones(3, np.int16))
    with Pipeline(batch_size=2, num_threads=1, device_id=0):
        outputs = module.nodes(True, 64, True, constants if interpolates else None)
    todo, used = list(outputs), {}
    while todo:
        node = todo.pop()
        used[node.source.name] = (re.search("OpSpec for (.+):", repr(node.source.spec))[1], node.device)
        todo += node.source.inputs or []
    moved = {name: device for name, device in used.values() if name != "ExternalSource"}
    assert set(moved.values()) == {"gpu"}
    assert set(moved) <= set(backend.RegisteredGPUOps()) | {"_Copy", "Copy", "MakeContiguous"}
    assert "WarpAffine" in moved
    assert ("_ArithmeticGenericOp" in moved) == interpolates


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA")
@pytest.mark.parametrize("dtype", ["uint8", "int16", "float32"])
def test_the_gpu_graph_equals_the_reference(dtype):
    raw = windows(8, 64, 7, dtype)
    pipeline = module.build(8, moves=True, size=64, threads=2, device=0)
    image, label = (torch.from_dlpack(t).cpu().numpy() for t in module.run(pipeline, raw, d4(64)))
    expected = reference_graph(raw, d4(64))
    np.testing.assert_array_equal(image, expected.image)
    np.testing.assert_array_equal(label[..., 0], expected.label)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA")
@pytest.mark.parametrize("dtype", ["uint8", "int16", "float32"])
def test_affine_on_the_gpu_equals_the_reference(dtype):
    check_affine(dtype, device="cuda")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA")
@pytest.mark.parametrize("augment", [Augment("none"), Augment("d4")])
def test_batches_on_the_gpu_are_the_stores_and_stay_whole(store, augment):
    """Page-locked buffers are used again while earlier batches are still held."""
    loader = Loader(
        store, tiles=np.arange(len(store)), patch=32, batch=6, samples_per_epoch=300, augment=augment,
        device="cuda",
    )  # fmt: skip
    held = list(loader)
    assert len(held) == 50
    for batch in held:
        raw = Buffer.empty(6, 32, 7, "int16")
        store.read_into(batch.samples, raw)
        expected = reference_graph(raw, matrices(batch.samples, augment, 32))
        np.testing.assert_array_equal(batch.image.permute(0, 2, 3, 1).cpu().numpy(), expected.image)
        np.testing.assert_array_equal(batch.label.cpu().numpy(), expected.label)
