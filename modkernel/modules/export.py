"""A network as a file that other programs run, without modkernel.

What goes in is what the data set has: pixels as uint8, 0 to 255, channels first, or float32 rows of
a table or an array. The preprocessing from there on is inside; how files are read is not, such as
the range of values that 16-bit pictures are scaled from. What comes out is `Network.rows`:
probabilities in the order of the classes, or a hidden module's kernel features. Any number of
examples at once.

Every form holds one entry of metadata, `modkernel`, with JSON: see `describe`.
"""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from modkernel.errors import ExportError
from modkernel.lookup import lookup
from modkernel.modules.network import Network
from modkernel.modules.plain_names import plain_tensors
from modkernel.system.files import replace_file

TOLERANCE = 1e-4
"""How much what a file computes may differ from what the network does, in any number."""
KEY = "modkernel"
"""Of the entry of metadata; `modkernel.json` among the extra files of torch.export's form."""
INPUT = "input"
"""Name of the input in ONNX."""
OPSET = 20
"""Of ONNX: what onnxruntime 1.17 and newer runs."""


class _Rows(nn.Module):
    """`Network.rows` as a module's forward."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """Raw examples in, a row each out."""
        return self.network.rows(x)


@dataclass(frozen=True)
class _Form:
    write: Callable[[Network, Tensor, str], bytes]
    """Makes the file's bytes of a network, some examples and the metadata."""
    run: Callable[[bytes, Network, Tensor], Tensor]
    """What those bytes compute of examples."""


def export(network: Network, form: str, path: Path, examples: Tensor) -> float:
    """Write a network as a file, once the file was found to compute what the network does.

    Args:
        network: With an output module, or hidden modules alone.
        form: 'state-dict': safetensors with the names of plain torch code (see
            `modkernel.modules.plain_names`); 'onnx': ONNX; 'torch-export': a program of
            torch.export, for `torch.export.load`.
        path: The file; it appears whole or not at all, and replaces what was there.
        examples: Raw examples [N, …] of the network's dtype to check with.

    Returns:
        The largest difference between what the file and the network give for the examples.

    Raises:
        UnknownNameError: no such form.
        ExportError: the network cannot be put in that form, a package is missing, the file does
            not compute the same, or cannot be written.
        InterfaceError: the examples are not such as the network takes.
    """
    made = lookup(FORMS, form, "form of export")
    with torch.inference_mode():
        expected = network.rows(examples)
    content = made.write(network, examples, json.dumps(describe(network), sort_keys=True))
    with torch.no_grad():
        found = made.run(content, network, examples)
    if found.shape != expected.shape:
        raise ExportError(
            f"The file as {form} would give {list(found.shape)} for {len(examples)} examples, the "
            f"network gives {list(expected.shape)}: {_elsewhere(form)}."
        )
    difference = float((found - expected).abs().max())
    if not difference <= TOLERANCE:
        raise ExportError(
            f"The file as {form} would differ from the network by {difference:.2g} on its own "
            f"examples, and {TOLERANCE:g} is allowed: {_elsewhere(form)}."
        )
    try:
        replace_file(path, content, durable=True)
    except OSError as error:
        raise ExportError(
            f"Cannot write {path}: {error.strerror or error}. Name a file in a folder with room "
            "that you may write to."
        ) from error
    return difference


def describe(network: Network) -> dict[str, Any]:
    """What a file says of itself.

    Returns:
        {modules: ids, first to last; classes: in the order of the probabilities, or null; input:
        {dtype, shape: of one example, means: in words, reading: what is to be done to image files
        before, where that is other than usual}; preprocessing: what is done inside, of several
        chains side by side a list; output: in words; kernel: of the features that the output
        module takes}.
    """
    last = network.stored[-1].spec
    takes = last.preprocessing
    kernel = last.interface.kernel.model_dump(mode="json")
    roots = {one.spec.preprocessing.id: one.spec.preprocessing for one in network.stored}
    inside = [one.model_dump(mode="json", exclude={"reading"}) for one in roots.values()]
    reading = {"reading": takes.reading.model_dump(mode="json")} if takes.reading.told else {}
    return {
        "modules": [stored.id for stored in network.stored],
        "classes": None if network.classes is None else list(network.classes),
        "input": {
            "dtype": takes.dtype,
            "shape": list(takes.shape),
            "means": _meaning(network),
            **reading,
        },
        "preprocessing": inside if len(inside) > 1 else inside[0],
        "output": "features" if network.classes is None else "probabilities",
        "kernel": kernel,
    }


def _meaning(network: Network) -> str:
    takes = network.stored[0].spec.preprocessing
    if len(takes.shape) != 3:
        names = "" if takes.columns is None else f" (in this order: {', '.join(takes.columns)})"
        return f"{takes.shape[0]} numbers a row{names}, NaN where one is missing"
    colour = {1: "grey", 3: "RGB"}.get(takes.shape[0], f"{takes.shape[0]}-channel")
    height, width = takes.shape[1:]
    told = takes.reading.told
    read = f"before that, outside of this file, {told}; " if told else ""
    return (
        f"{colour} pixels as {takes.dtype}, 0 to 255, channels first, of pictures resized to "
        f"{width} x {height} (bilinear, antialiased); {read}normalisation is inside"
    )


def _write_tensors(network: Network, examples: Tensor, metadata: str) -> bytes:
    tensors = {name: t.detach().cpu().contiguous() for name, t in plain_tensors(network).items()}
    return save(tensors, metadata={KEY: metadata})


def _run_tensors(content: bytes, network: Network, examples: Tensor) -> Tensor:
    """What a network of the same modules gives that has no other numbers than the file's."""
    found, other = load(content), copy.deepcopy(network)
    for tensor in other.state_dict().values():
        tensor.zero_()  # What the file lacks is missed then.
    for name, tensor in plain_tensors(other).items():
        tensor.copy_(found.pop(name))
    if found:
        raise ExportError(f"The file holds more than the network: {', '.join(found)}.")
    return other.rows(examples)


def _write_program(network: Network, examples: Tensor, metadata: str) -> bytes:
    buffer = BytesIO()
    program = _traced(network, examples, "torch-export")
    torch.export.save(program, buffer, extra_files={f"{KEY}.json": metadata})
    return buffer.getvalue()


def _run_program(content: bytes, network: Network, examples: Tensor) -> Tensor:
    rows: Tensor = torch.export.load(BytesIO(content)).module()(examples)
    return rows


def _write_onnx(network: Network, examples: Tensor, metadata: str) -> bytes:
    _runtime()
    program = _traced(network, examples, "onnx")
    output = describe(network)["output"]
    try:
        with warnings.catch_warnings():  # of the exporter, to those who maintain it
            warnings.simplefilter("ignore")
            made = torch.onnx.export(
                program, input_names=[INPUT], output_names=[output], opset_version=OPSET,
                dynamo=True, verbose=False,
            )  # fmt: skip
        assert made is not None
        model = made.model_proto
        for value in (*model.graph.input, *model.graph.output):
            value.type.tensor_type.shape.dim[0].dim_param = "batch"
        model.metadata_props.add(key=KEY, value=metadata)
        content: bytes = model.SerializeToString()
    except Exception as error:  # The exporter and protobuf raise anything.
        raise _cannot("onnx", error) from error
    return content


def _run_onnx(content: bytes, network: Network, examples: Tensor) -> Tensor:
    runtime = _runtime()
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    try:
        session = runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        (rows,) = session.run(None, {INPUT: examples.numpy()})
    except Exception as error:
        raise _cannot("onnx", error) from error
    return torch.from_numpy(rows)


def _runtime() -> Any:
    """The module onnxruntime, where all that the export needs is installed."""
    try:
        import onnx  # noqa: F401
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ExportError(
            f"Exporting as onnx needs packages that are not installed ({error}): "
            "pip install 'modkernel[onnx]'."
        ) from None
    return onnxruntime


def _traced(network: Network, examples: Tensor, form: str) -> torch.export.ExportedProgram:
    """The network as torch.export's program, for any number of examples."""
    two = examples.repeat(2, *[1] * (examples.ndim - 1))[:2]  # Of one, it takes one for fixed.
    batch = {"x": {0: torch.export.Dim("batch")}}
    try:
        return torch.export.export(_Rows(network).eval(), (two,), dynamic_shapes=batch)
    except Exception as error:  # Tracing runs the code of any backbone.
        raise _cannot(form, error) from error


def _cannot(form: str, error: Exception) -> ExportError:
    lines = str(error).strip().splitlines()
    reason = lines[0].strip()[:300] if lines else type(error).__name__
    return ExportError(
        f"This network cannot be exported as {form} ({reason}): use --to state-dict, or a backbone "
        "whose code torch.export can trace."
    )


def _elsewhere(form: str) -> str:
    return f"use another form than {form} ({', '.join(name for name in FORMS if name != form)})"


FORMS: dict[str, _Form] = {
    "state-dict": _Form(_write_tensors, _run_tensors),
    "onnx": _Form(_write_onnx, _run_onnx),
    "torch-export": _Form(_write_program, _run_program),
}
"""Name to how such a file is written and run."""
