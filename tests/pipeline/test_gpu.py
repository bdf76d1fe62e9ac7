"""The graph on a GPU: checked statically here, run where CUDA is."""

import ast
import inspect

import numpy as np
import nvidia.dali.backend as backend
import pytest
import torch

from glacier.pipeline import graph as module
from glacier.pipeline.augment import d4, matrices
from glacier.pipeline.buffer import Buffer
from glacier.pipeline.loader import Loader
from glacier.pipeline.reference import reference_graph
from tests.pipeline.test_graph import windows


def test_every_operator_of_the_graph_exists_for_the_gpu():
    tree = ast.parse(inspect.getsource(module.graph))
    used = {
        node.func.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and ast.unparse(node.func.value) == "fn"
    }
    assert used
    registered = {name.lower() for name in backend.RegisteredGPUOps()}
    missing = {name for name in used if name.replace("_", "") not in registered}
    assert not missing


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA")
@pytest.mark.parametrize("dtype", ["uint8", "int16", "float32"])
def test_the_gpu_graph_equals_the_reference(dtype):
    raw = windows(8, 64, 7, dtype)
    pipeline = module.build(8, moves=True, threads=2, device=0)
    image, label = (torch.from_dlpack(t).cpu().numpy() for t in module.run(pipeline, raw, d4(64)))
    expected = reference_graph(raw, d4(64))
    np.testing.assert_array_equal(image, expected.image)
    np.testing.assert_array_equal(label[..., 0], expected.label)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA")
@pytest.mark.parametrize("augment", ["none", "d4"])
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
