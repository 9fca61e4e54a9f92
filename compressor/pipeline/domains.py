"""`--domain NAME=TEXT`: the domains of a family, and what they exclude."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lathe.artefact.errors import UserError
from lathe.artefact.family import NAME_RULE, PLAN_NAME
from lathe.compressor.pipeline.compress_fields import CompressFields

GENERAL, DENSE = "general", "dense"
"""The name of the subnet for any text, and that of the parent in tables."""


@dataclass(frozen=True)
class Domain:
    """A kind of text.

    Attributes:
        name: Also of its subnet; after a colon it is a part of the name of the served model.
        text: Files or folders with commas, or a data set.
    """

    name: str
    text: str

    @classmethod
    def parse(cls, given: str) -> Domain:
        """Reads NAME=TEXT.

        Raises:
            UserError: it is not that, or the name cannot be a part of a model's name.
        """
        from lathe.compressor.calibration.tokens import SELF

        name, equals, text = given.partition("=")
        if not equals or not text:
            raise UserError(f"--domain {given} is not NAME=TEXT", "Give one such as code=corpus/code.")
        if not PLAN_NAME.fullmatch(name):
            raise UserError(
                f"the domain {name!r} cannot be a part of a model's name",
                NAME_RULE,
            )
        if name in (GENERAL, DENSE):
            raise UserError(f"a domain cannot be called {name}, as another model is", "Choose another name.")
        if text == SELF:
            raise UserError(f"--domain {given} has no text of its own", "Give files or folders.")
        return cls(name, text)


def parse_domains(given: Sequence[str]) -> tuple[Domain, ...]:
    """Reads all domains that are given.

    Raises:
        UserError: one is not NAME=TEXT, a name is there twice, or there is only one.
    """
    domains = tuple(map(Domain.parse, given))
    names = [domain.name for domain in domains]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UserError(f"--domain {twice} is given twice", "Give each domain once; TEXT may be a list.")
    if len(domains) == 1:
        raise UserError(
            f"--domain {names[0]} is the only domain",
            "Give two or more, or its text as --calibration.",
        )
    return domains


def check_domains(options: CompressFields) -> None:
    """Checks what goes with domains.

    Raises:
        UserError: one will not do, or another option excludes them.
    """
    if not options.domain:
        return
    parse_domains(options.domain)
    for flag, given, why in (
        ("several targets", options.several_targets, "Give one target."),
        ("--front", options.front, "Leave it out."),
        ("--plan", options.plan is not None, "Give a target: each domain has widths of its own."),
        ("--max-perplexity-increase", options.perplexity_increase is not None, "Give another target."),
        ("--pattern", options.pattern is not None, "Leave it out."),
        (
            "--evaluation",
            options.evaluation is not None,
            "Each is scored on its held-out text: leave it out.",
        ),
    ):
        if given:
            raise UserError(f"{flag} and --domain cannot be combined", why)
