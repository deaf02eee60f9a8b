"""The neurons' time loops: their meaning (`reference`), and the same loops fused, for the CPU and for CUDA."""
