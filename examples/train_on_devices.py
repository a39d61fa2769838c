"""Train digits on two devices: torchrun --nproc-per-node 2 train_on_devices.py FOLDER [cpu]."""

import sys

from modkernel import BackboneSpec, HiddenSpec, KernelSpec, NetworkSpec, OutputSpec, train_network
from modkernel.training.parallel.join import torchrun

spec = NetworkSpec(
    name="digits",
    backbone=BackboneSpec(name="mlp", width=256, depth=2),
    hidden=(HiddenSpec(kernel=KernelSpec(name="relu")), HiddenSpec(kernel=KernelSpec(name="relu"))),
    output=OutputSpec(method="ridge", labels_per_class=1, draws=20),
)
with torchrun(*sys.argv[2:]) as (ranks, device):
    trained = train_network(spec, sys.argv[1], device=device, ranks=ranks)
if ranks.first:
    print(f"{trained.reports[-1].evaluation.accuracy_mean:.1%} of the test part, on ten labels")
