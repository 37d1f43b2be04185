"""Device and precision of the frozen towers."""

from __future__ import annotations

import torch
from open_clip.modified_resnet import AttentionPool2d
from open_clip.timm_model import TimmModel
from open_clip.transformer import Attention, LayerNorm, LayerNormFp32, LayerScale
from torch import nn

from npt_core.errors import ConfigError

DTYPES = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "fp64": torch.float64,  # for parity tests
}

_MULTIPLYING = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.MultiheadAttention, Attention, AttentionPool2d, LayerScale)
_MATRICES = {"text_projection", "proj", "query"}  # parameters of towers and poolers that are multiplied with


def resolve_device(device: str) -> torch.device:
    """`auto` is CUDA, else MPS, else the CPU; anything else is a torch device that must exist.

    Raises:
        ConfigError: No such device on this machine.
    """
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps") if torch.backends.mps.is_available() else torch.device("cpu")
    try:
        resolved = torch.device(device)
    except RuntimeError as error:
        raise ConfigError(f"Device {device!r} is unknown; it can be auto, cpu, cuda, cuda:N or mps.") from error
    count = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    if (resolved.index or 0) >= count.get(resolved.type, 0):
        raise ConfigError(f"Device {device!r} is not on this machine; use auto or cpu.")
    return resolved


def resolve_precision(precision: str, device: torch.device) -> str:
    """`auto` is fp32 on the CPU and on MPS, bf16 on CUDA devices that compute in it, fp16 on older ones.

    Raises:
        ConfigError: Unknown, or one the device does not compute in.
    """
    if precision == "auto":
        if device.type != "cuda":
            return "fp32"
        return "bf16" if torch.cuda.get_device_capability(device) >= (8, 0) else "fp16"
    if precision not in DTYPES:
        raise ConfigError(f"Precision {precision!r} is unknown; it can be auto, fp32, bf16 or fp16.")
    if precision == "fp16" and device.type == "cpu":
        raise ConfigError("Precision fp16 is for accelerators; on the CPU use fp32 or bf16.")
    return precision


def cast_towers(model: nn.Module, precision: str) -> nn.Module:
    """Cast a frozen open_clip model in place: matrices in the compute dtype, norms and embeddings in fp32.

    Layer norms compute in fp32 whatever comes in, as open_clip's own mixed precision does.
    """
    dtype = DTYPES[precision]
    if dtype in (torch.float32, torch.float64):
        return model.to(dtype)
    for module in model.modules():
        if type(module) is LayerNorm:
            module.__class__ = LayerNormFp32
        whole = isinstance(module, _MULTIPLYING)
        for name, parameter in module.named_parameters(recurse=False):
            if whole or name in _MATRICES:
                parameter.data = parameter.data.to(dtype)
    for module in model.modules():
        if isinstance(module, TimmModel):  # timm's layers know no mixed precision
            module.to(dtype)
    return model
