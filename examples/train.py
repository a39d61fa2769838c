"""Train digits as two hidden modules and an output module on ten labels: train.py FOLDER."""

import sys

from modkernel import BackboneSpec, HiddenSpec, KernelSpec, NetworkSpec, OutputSpec, train_network

spec = NetworkSpec(
    name="digits",
    backbone=BackboneSpec(name="mlp", width=256, depth=2),
    hidden=(HiddenSpec(kernel=KernelSpec(name="relu")), HiddenSpec(kernel=KernelSpec(name="relu"))),
    output=OutputSpec(method="ridge", labels_per_class=1, draws=20),
)
trained = train_network(spec, sys.argv[1])
for module in trained.modules:
    print(module.spec.kind, module.id[:12], module.folder)
print(f"{trained.reports[-1].evaluation.accuracy_mean:.1%} of the test part, on ten labels")
