"""The CPU target: vectors, tile kernels, drivers. Imported at the first call, since it imports Numba."""
