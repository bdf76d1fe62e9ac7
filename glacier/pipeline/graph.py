"""What DALI does to a batch: one function, the same on CPU and GPU."""

from typing import Any

import numpy as np
import nvidia.dali.fn as fn
from numpy.typing import NDArray
from nvidia.dali import Pipeline, types

from glacier.classes import IGNORE
from glacier.pipeline.buffer import Buffer
from glacier.pipeline.inputs import Constants


def graph(
    image: Any, label: Any, matrix: Any | None, light: Any | None, constants: Constants | None, size: int
) -> tuple[Any, Any]:
    """Move each window by its matrix, and standardise it first if that interpolates.

    Every matrix of the exact presets takes pixel centres to pixel centres, so that the nearest pixel
    is the pixel itself and nothing is interpolated: raw codes stay raw codes. Codes must not be
    interpolated, since one of them means no data: it becomes 0, the band's mean, before it is mixed.

    Args:
        image: DALI node, raw pixels HWC, on the CPU or the GPU.
        label: DALI node, class indices HWC with one channel, beside it.
        matrix: DALI node (2, 3) on the CPU, output px -> input px; None to move nothing.
        light: DALI node (2, 1, C) beside the image: gain and bias of standardised values; with `constants`.
        constants: what standardises; None for exact presets, which leave raw codes.
        size: side of the output, px.

    Returns:
        Image and label, moved.
    """
    if matrix is None:
        return image, label
    move = {"matrix": matrix, "size": (size, size)}
    moved_label = fn.warp_affine(label, interp_type=types.INTERP_NN, fill_value=float(IGNORE), **move)
    if constants is None or light is None:
        return fn.warp_affine(image, interp_type=types.INTERP_NN, fill_value=0.0, **move), moved_label
    scale, shift, code = (types.Constant(value[None, None], device=image.device) for value in constants)
    held = image != code
    physical = image * held * scale + shift
    lit = (physical * light[0:1] + light[1:2]) * held
    return fn.warp_affine(lit, interp_type=types.INTERP_LINEAR, fill_value=0.0, **move), moved_label


def build(
    count: int,
    *,
    moves: bool,
    size: int,
    threads: int,
    device: int | None,
    constants: Constants | None = None,
) -> Pipeline:
    """A pipeline around `graph`, to be fed batch by batch.

    Args:
        count: most samples in a batch.
        moves: whether batches come with matrices.
        size: side of the output, px.
        threads: CPU threads.
        device: CUDA device; None for the CPU.
        constants: as for `graph`; batches then come with lights.
    """
    # Depth 1: the loader's own thread runs ahead of the consumer.
    pipeline = Pipeline(batch_size=count, num_threads=threads, device_id=device, prefetch_queue_depth=1)
    with pipeline:
        pipeline.set_outputs(*nodes(moves, size, device is not None, constants))
    pipeline.build()
    return pipeline


def nodes(moves: bool, size: int, gpu: bool, constants: Constants | None) -> tuple[Any, Any]:
    """The graph from its sources on, in the pipeline that is being made."""
    image, label = (
        fn.external_source(name=name, layout="HWC", no_copy=True) for name in ("image", "label")
    )
    matrix = fn.external_source(name="matrix") if moves else None
    light = fn.external_source(name="light", layout="HWC") if constants else None
    if gpu:
        image, label = image.gpu(), label.gpu()
        light = None if light is None else light.gpu()
    return graph(image, label, matrix, light, constants, size)


def run(
    pipeline: Pipeline,
    batch: Buffer,
    matrix: NDArray[np.float32] | None,
    light: NDArray[np.float32] | None = None,
) -> tuple[Any, Any]:
    """Feed one batch and take what comes out: image and label as DALI tensors NHWC.

    Nothing is copied on the way in: leave `batch` alone until this returns. Without a stream given, DALI's
    `run` returns when the outputs are there, on a GPU too.
    """
    pipeline.feed_input("image", batch.image)
    pipeline.feed_input("label", batch.label[..., None])
    if matrix is not None:
        pipeline.feed_input("matrix", matrix)
    if light is not None:
        pipeline.feed_input("light", light[:, :, None])
    image, label = pipeline.run()
    return image.as_tensor(), label.as_tensor()
