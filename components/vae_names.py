"""Names that the autoencoder's attention had before diffusers 0.18, in released checkpoints and in public Stable Diffusion folders."""

from __future__ import annotations

import re

from torch import Tensor

# Its linear layers were 1x1 convolutions in some.
_OLD = re.compile(r"^(image_decoder\.decoder\.vae\..*\.attentions\.\d+\.)(query|key|value|proj_attn)\.(weight|bias)$")
_LINEAR = re.compile(r"^image_decoder\.decoder\.vae\..*\.attentions\.\d+\.to_(q|k|v|out\.0)\.weight$")
_NEW = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def current_name(name: str) -> str:
    """The name that today's libraries give a tensor of the release."""
    return _OLD.sub(lambda old: f"{old[1]}{_NEW[old[2]]}.{old[3]}", name)


def current_shape(name: str, tensor: Tensor) -> Tensor:
    """A tensor of a current name in today's shape: what was a 1x1 convolution is a linear layer now."""
    return tensor.flatten(1) if tensor.ndim == 4 and _LINEAR.match(name) else tensor
