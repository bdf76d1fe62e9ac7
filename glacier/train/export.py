"""A run's weights as one safetensors file, in half precision, with all that is needed to use them."""

import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from glacier.errors import GlacierError
from glacier.train.segmenter import Trained
from glacier.train.whole import replacing
from glacier.version import __version__

KEY = "glacier"


def export(trained: Trained, path: Path) -> int:
    """Write `path`, whole or not at all; its size in bytes.

    Raises:
        GlacierError: the name does not end in .safetensors.
    """
    if path.suffix != ".safetensors":
        raise GlacierError(f"{path}: expected a name that ends in .safetensors")
    weights = {name: halved(value) for name, value in trained.weights.items()}
    metadata = {KEY: json.dumps(trained.about()), "created_by": f"glacier {__version__}"}
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        save_file(weights, partial, metadata=metadata)
    return path.stat().st_size


def load_exported(path: Path) -> Trained:
    """Read what `export` wrote; the weights in single precision again.

    Raises:
        GlacierError: no such file, or not one of ours.
    """
    if not path.is_file():
        raise GlacierError(f"{path}: no such file; make it with `glacier export RUN {path}`")
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {})[KEY])
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        weights = {k: v.float() if v.is_floating_point() else v for k, v in weights.items()}
        return Trained.from_about(about, weights, str(path))
    except GlacierError:
        raise
    except (SafetensorError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise GlacierError(
            f"{path}: not an export of a run, expected one of `glacier export`; export it again"
        ) from error


def halved(value: Tensor) -> Tensor:
    """float16, where its range suffices."""
    value = value.detach().cpu().contiguous()
    if not value.is_floating_point():
        return value
    half = value.to(torch.float16)
    return half if bool(half.isfinite().all()) else value.float()
