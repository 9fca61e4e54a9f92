"""OpenVINO, which is an extra."""

from __future__ import annotations

from functools import cache
from typing import Any

from lathe.artefact.errors import UserError

INSTALL = "pip install 'lathe[openvino]'"


@cache
def openvino() -> Any:
    """Returns the module `openvino`.

    Raises:
        UserError: it is not installed, or its library does not load.
    """
    try:
        import openvino as api
    except ImportError as error:
        if error.name == "openvino":
            raise UserError("OpenVINO is not installed", f"Install it: {INSTALL}.") from None
        raise UserError(f"OpenVINO is installed and does not load: {error}", "Install it again.") from None
    return api


def computes_bfloat16() -> bool:
    """Returns whether OpenVINO has kernels in bfloat16 for this processor.

    Raises:
        UserError: OpenVINO is not installed.
    """
    return "BF16" in openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
