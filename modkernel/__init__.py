"""modkernel: networks built from separately trained modules, judged by kernels on pairs.

The core: torch, torchvision, numpy, pydantic and safetensors are all that it needs. `registry`
stores what it trains, `flows` runs it.
"""
