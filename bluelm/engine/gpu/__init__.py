"""The engine on one CUDA card: Triton kernels, one CUDA graph per batch size, sampling on the device.

`bluelm.engine.gpu.runner.GpuRunner` is what the rest of the engine sees. Nothing here is imported when the device is
a CPU; the kernels also run there in Triton's interpreter (TRITON_INTERPRET=1), which is how they are tested.
"""
