"""Half precision where there is CUDA: bfloat16 if the GPU has it, else float16; float32 on the CPU."""

import torch
from torch.amp import autocast


def half(device: torch.device) -> torch.dtype | None:
    """The dtype that networks compute in on `device`; None for their own."""
    if device.type != "cuda":
        return None
    # emulated bfloat16, as on a T4, is slower than float32
    native = torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.bfloat16 if native else torch.float16


def mixed(device: torch.device) -> autocast:
    """A context in which networks compute in `half(device)`."""
    dtype = half(device)
    return autocast(device.type, dtype or torch.bfloat16, enabled=dtype is not None)
