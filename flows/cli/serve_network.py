"""`serve-network`: a server that answers pictures with what a network says of them."""

from __future__ import annotations

from typing import Annotated

import typer

from modkernel.flows.cli._loaded import load
from modkernel.flows.cli._output import err
from modkernel.flows.cli._stored import AnyRef, stored


def serve_network(
    reference: AnyRef,
    host: Annotated[
        str,
        typer.Option(
            help="Name or address of this machine to listen on; 0.0.0.0 is all of them. Whoever "
            "reaches it may ask it: there is no login."
        ),
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="To listen on.")] = 8000,
) -> None:
    """Serve a network's answers to pictures, or rows, over HTTP, until Ctrl-C.

    POST /invocations takes one image file (Content-Type image/png, image/jpeg, …) or
    {"inputs": [...]} as application/json, each input the base64 of an image file or an array, as
    MLflow's scoring server does. It answers {"predictions": [{label, probability, probabilities,
    distance}]}: distance 1 is as far from the training data as its own held-out examples lie, at
    most 1 in 9 of them beyond 3; null where the module was not measured. GET /health, and / says
    what the network takes. It listens on this machine only, unless --host lets others in.
    """
    from modkernel.flows.servers.network_server import network_app, serve_app
    from modkernel.flows.servers.reach import reach_answers
    from modkernel.modules.export import describe
    from modkernel.registry.tracking.cards import ASKED, asking
    from modkernel.reuse.answer import answering, distance_of

    with stored() as registry:
        loaded = load(registry, reference)
        moments = registry.moments.of_training(loaded.chain)
        reached = reach_answers(registry.settings, host)
    network = loaded.network
    answer = answering(network, moments)
    takes = network.stored[0].spec.preprocessing
    far = distance_of(network, moments)
    about = {"network": loaded.title, "distance": far is not None, **describe(network)}
    example = asking(loaded.chain[-1].spec).replace(ASKED, reached.url(port))
    app = network_app(answer, takes, about, reached, port)
    serve_app(
        app,
        reached,
        port,
        lambda: err.print(f"{loaded.title} answers until Ctrl-C: {example}", soft_wrap=True),
    )
