"""NVIDIA GPUs: device primitives, the kernels made of them, and what brings a device array to them."""
