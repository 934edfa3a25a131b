"""Tokens are the signs of small numbers, so what leads to them is computed in the model's whole precision."""

import torch

# Decorates a forward. PyTorch otherwise lets a GPU round the inputs of float32 convolutions to 10 bits (TF32), an error
# of 1e-3 that depends on the shape of the batch.
full_precision = torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
