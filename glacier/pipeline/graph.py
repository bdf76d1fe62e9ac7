"""What DALI does to a batch: one function, the same on CPU and GPU."""

from typing import Any

import numpy as np
import nvidia.dali.fn as fn
from numpy.typing import NDArray
from nvidia.dali import Pipeline, types

from glacier.classes import IGNORE
from glacier.pipeline.buffer import Buffer


def graph(image: Any, label: Any, matrix: Any | None) -> tuple[Any, Any]:
    """Move each window by its matrix.

    Every matrix of the exact presets takes pixel centres to pixel centres, so that the nearest pixel
    is the pixel itself and nothing is interpolated: raw codes stay raw codes.

    Args:
        image: DALI node, raw pixels HWC, on the CPU or the GPU.
        label: DALI node, class indices HWC with one channel, beside it.
        matrix: DALI node (2, 3) on the CPU, output px -> input px; None to move nothing.

    Returns:
        Image and label, moved.
    """
    if matrix is None:
        return image, label
    move = {"matrix": matrix, "interp_type": types.INTERP_NN}
    moved = fn.warp_affine(image, fill_value=0.0, **move)
    return moved, fn.warp_affine(label, fill_value=float(IGNORE), **move)


def build(count: int, *, moves: bool, threads: int, device: int | None) -> Pipeline:
    """A pipeline around `graph`, to be fed batch by batch.

    Args:
        count: most samples in a batch.
        moves: whether batches come with matrices.
        threads: CPU threads.
        device: CUDA device; None for the CPU.
    """
    # Depth 1: the loader's own thread runs ahead of the consumer.
    pipeline = Pipeline(batch_size=count, num_threads=threads, device_id=device, prefetch_queue_depth=1)
    with pipeline:
        image = fn.external_source(name="image", layout="HWC", no_copy=True)
        label = fn.external_source(name="label", layout="HWC", no_copy=True)
        matrix = fn.external_source(name="matrix") if moves else None
        if device is not None:
            image, label = image.gpu(), label.gpu()
        pipeline.set_outputs(*graph(image, label, matrix))
    pipeline.build()
    return pipeline


def run(pipeline: Pipeline, batch: Buffer, matrix: NDArray[np.float32] | None) -> tuple[Any, Any]:
    """Feed one batch and take what comes out: image and label as DALI tensors NHWC.

    Nothing is copied on the way in: leave `batch` alone until this returns. Without a stream given, DALI's
    `run` returns when the outputs are there, on a GPU too.
    """
    pipeline.feed_input("image", batch.image)
    pipeline.feed_input("label", batch.label[..., None])
    if matrix is not None:
        pipeline.feed_input("matrix", matrix)
    image, label = pipeline.run()
    return image.as_tensor(), label.as_tensor()
