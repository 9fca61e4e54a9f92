"""Which model answers a call: the only one, the subnet that it names, or the one that is chosen for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from lathe.serving.api.service import Service
from lathe.serving.backend import GenerationRequest
from lathe.serving.switching.chooser import Choice

SUBNET_HEADER, REASON_HEADER = "x-lathe-subnet", "x-lathe-subnet-reason"
ASKED = "asked for"


@dataclass(frozen=True)
class Answering:
    """The model that answers.

    Attributes:
        service: its own view of the service.
        requests: the call's sequences.
        headers: what tells the client of the choice.
    """

    service: Service
    requests: Sequence[GenerationRequest] = ()
    headers: Mapping[str, str] = field(default_factory=dict)


def answering(service: Service, model: str, requests: Sequence[GenerationRequest] = ()) -> Answering:
    """Returns what answers a call for `model`, one of the service's names.

    Args:
        service: of the server.
        model: the name that was asked for.
        requests: the call's sequences; none while they are not known.
    """
    if service.chooser is None:
        return Answering(service, requests)
    named = service.subnet_named(model)
    choice = service.chooser.choose(requests) if named is None else Choice(named, ASKED)
    return Answering(
        service.subnets[choice.subnet],
        [replace(request, subnet=choice.subnet) for request in requests],
        {SUBNET_HEADER: choice.subnet, REASON_HEADER: choice.reason},
    )
