"""What networks compute in: half precision where there is CUDA, else float32; or what is asked for."""

import torch
from torch import Tensor
from torch.amp import GradScaler, autocast


def half(device: torch.device, precision: str = "auto") -> torch.dtype | None:
    """The dtype that networks compute in on `device`; None for their own.

    Args:
        device: where they compute.
        precision: as `train.precision`; auto: bfloat16 if the GPU has it, else float16; float32 on the CPU.
    """
    if precision == "float32" or (precision == "auto" and device.type != "cuda"):
        return None
    if precision != "auto":
        return torch.bfloat16 if precision == "bfloat16" else torch.float16
    # emulated bfloat16, as on a T4, is slower than float32
    native = torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.bfloat16 if native else torch.float16


def mixed(device: torch.device, precision: str = "auto") -> autocast:
    """A context in which networks compute in `half(device, precision)`."""
    dtype = half(device, precision)
    return autocast(device.type, dtype or torch.bfloat16, enabled=dtype is not None)


class Unscaled(GradScaler):
    """Leaves steps out like its parent, but at a scale of 1, whatever happens."""

    def update(self, new_scale: float | Tensor | None = None) -> None:
        """Stay at 1."""
        super().update(1.0)


def scaler(device: torch.device, precision: str = "auto") -> GradScaler:
    """What scales the loss, and leaves out steps whose gradients are no numbers, on any device.

    Only float16 needs the scale.
    """
    if half(device, precision) == torch.float16:
        return GradScaler(device.type)
    return Unscaled(device.type, init_scale=1.0)
