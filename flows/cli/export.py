"""`export`: a network as a file for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from modkernel.flows.cli._loaded import Loaded, load
from modkernel.flows.cli._output import Json, err, out, print_json, size
from modkernel.flows.cli._stored import AnyRef, stored

if TYPE_CHECKING:
    from torch import Tensor

    from modkernel.registry import Registry
    from modkernel.spec import Preprocessing

EXAMPLES = 32
"""With which a file is checked before it is put in place."""


def export(
    reference: AnyRef,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The file to write.")],
    to: Annotated[
        str,
        typer.Option(
            "--to",
            metavar="FORM",
            help="state-dict: safetensors with the names of plain torch code. onnx: for "
            "onnxruntime. torch-export: for torch.export.load.",
        ),
    ],
    json: Json = False,
) -> None:
    """Write a network, or a module with all that it stands on, as a file for other programs.

    It takes what the data set has: pixels as uint8, 0 to 255, [N, channels, height, width], or
    float32 rows; the preprocessing is inside, and N is any number. It gives probabilities in the
    order of the classes, which are in its metadata; a hidden module gives its kernel features.
    The file appears once it was found to compute what the network does, to 1e-4.

    --json: {file, form, bytes, examples, of, difference, modules, classes, input, preprocessing,
    output, kernel}; of: the data that it was checked with, null for made-up examples.
    """
    from modkernel.lookup import lookup
    from modkernel.modules import export as forms

    lookup(forms.FORMS, to, "form of export")
    registry = stored()
    loaded = load(registry, reference)
    examples, data = _examples(registry, loaded)
    difference = forms.export(loaded.network, to, file, examples)
    length = file.stat().st_size
    if json:
        print_json(
            {
                "file": str(file),
                "form": to,
                "bytes": length,
                "examples": len(examples),
                "of": data,
                "difference": difference,
                **forms.describe(loaded.network),
            }
        )
        return
    described = forms.describe(loaded.network)
    takes, shape = described["input"], ", ".join(map(str, described["input"]["shape"]))
    classes = described["classes"]
    gives = f"probabilities of {len(classes)} classes" if classes else "kernel features"
    out.print(
        f"{file}: {loaded.title} as {to}, {size(length)}. It takes {takes['dtype']} [N, {shape}] "
        f"({takes['means']}) and gives {gives}. Checked with {len(examples)} "
        f"{f'examples of {data}' if data else 'made-up examples'}: it differs by "
        f"{difference:.1g} at most.",
        soft_wrap=True,
    )


def _examples(registry: Registry, loaded: Loaded) -> tuple[Tensor, str | None]:
    """Real examples of the data that the last module was trained on, and its name.

    Made-up ones, and None, where that data is not on this machine: nothing is downloaded.
    """
    import torch

    from modkernel.data import load_dataset
    from modkernel.errors import ModkernelError
    from modkernel.flows.plans.datasets import recall

    last = loaded.chain[-1]
    takes = last.spec.preprocessing
    try:
        spec = recall(registry, last)
        here = registry.settings.model_copy(update={"download": False}).places
        data = load_dataset(spec, here)
        if data.preprocessing.shape != takes.shape or data.preprocessing.dtype != takes.dtype:
            raise ModkernelError("The data has another shape by now.")
        part = data.test if len(data.test) else data.train
        order = torch.linspace(0, len(part) - 1, min(EXAMPLES, len(part))).long()
        (batch,) = part.examples.batches([order])
    except ModkernelError as error:
        err.print(f"Checked with made-up examples, since real ones are not here: {error}")
        return _made_up(takes), None
    return batch, data.name


def _made_up(takes: Preprocessing) -> Tensor:
    """Noise of the data's own mean and spread."""
    import torch

    generator = torch.Generator().manual_seed(0)
    noise = torch.randn((EXAMPLES, *takes.shape), generator=generator)
    ones = (1,) * (len(takes.shape) - 1)
    mean, std = (torch.tensor(values).view(-1, *ones) for values in (takes.mean, takes.std))
    x = noise * std + mean
    return (x * 255).clamp(0, 255).to(torch.uint8) if takes.dtype == "uint8" else x
