"""The options of `migrate`, made from the tables of flags and parameters, and read back into them. Pure.

A new row of a table is an option the moment it is there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import IO, Any, TypeVar

import click

from vmferry.cli.named import NamedArgument
from vmferry.combinations import Fact, Place, check
from vmferry.errors import InvalidParameter, NotSupported, Violation
from vmferry.flags import FLAGS, NONE, Flag, FlagRow
from vmferry.params import PARAMETERS, Kind, MigrationParams, ParameterRow, checked

F = TypeVar("F", bound=Callable[..., Any])

FILES = frozenset({"destination_xml", "persistent_xml"})
"""Parameters whose option names the file that has the value."""

ALSO_SPELLED = {Flag.TUNNELLED: ("--tunneled",)}
"""Spellings that virsh takes as well."""

POSITIONAL = ("migrate_uri", "graphics_uri", "listen_address", "destination_name")
"""Parameters that virsh also takes without their names, in this order, after the domain and the destination."""

NOT_AVAILABLE: Mapping[Flag, str] = {}
"""Modes that need another walk than this client's, with what helps instead. A mode that is there is taken from here."""


REFUSED = frozenset(
    {
        "--rdma-pin-all",
        "--zerocopy",
        "--graphicsuri",
        "--migrate-disks-target-zero",
        "--comp-mt-level",
        "--comp-mt-threads",
        "--comp-mt-dthreads",
    }
)
"""What no daemon of this version honours, and every one refuses, with what helps."""


def migration_options(function: F) -> F:
    """`function` gets an option for each row of both tables, for a command of class `NamedCommand`."""
    named = sorted(
        (row for row in PARAMETERS if row.attribute in POSITIONAL), key=lambda row: POSITIONAL.index(row.attribute)
    )
    others = [row for row in PARAMETERS if row.attribute not in POSITIONAL]
    for option in reversed([*map(_argument, named), *map(_flag_option, FLAGS), *map(_parameter_option, others)]):
        function = option(function)
    return function


def read(given: Mapping[str, Any], *, facts: frozenset[Fact] = frozenset()) -> tuple[Flag, MigrationParams]:
    """The request that the options make, checked as far as one host can without asking another.

    `facts` is what the rules are to know of the call besides; DIRECT_OFFERED for one that no daemon receives.

    Raises:
        InvalidParameter: a value, or a combination, is wrong; with every finding.
        NotSupported: a mode is not available in this version, or what is asked for does not go together.
    """
    flags = NONE
    for row in FLAGS:
        flags |= row.flag if given.get(_key(row)) else NONE
    _refuse_missing_modes(flags)
    values = {row.attribute: _value(row, given.get(row.attribute)) for row in PARAMETERS}
    params = checked(MigrationParams(**{name: value for name, value in values.items() if value is not None}))
    call = Fact.TO_URI_CALL if Flag.PEER2PEER in flags or Fact.DIRECT_OFFERED in facts else Fact.MIGRATE3_CALL
    check(flags, params, Place.CLIENT | Place.TOOL, facts | {call})
    return flags, params


def _refuse_missing_modes(flags: Flag) -> None:
    missing = [row for row in FLAGS if row.flag & flags and row.flag in NOT_AVAILABLE]
    if not missing:
        return
    names = ", ".join(row.option for row in missing)
    raise NotSupported(
        f"{names}: not available in this version",
        remedy=NOT_AVAILABLE[missing[0].flag] if len(missing) == 1 else "",
        violations=tuple(Violation(row.option, "not available", NOT_AVAILABLE[row.flag]) for row in missing)
        if len(missing) > 1
        else (),
    )


def _key(row: FlagRow) -> str:
    return f"flag_{row.name.lower()}"


def _today(option: str) -> str:
    return " Refused by the daemons of today." if option in REFUSED else ""


def _flag_option(row: FlagRow) -> Callable[[F], F]:
    spellings = (row.option, *ALSO_SPELLED.get(row.flag, ()))
    absent = " Not available in this version." if row.flag in NOT_AVAILABLE else ""
    return click.option(_key(row), *spellings, is_flag=True, help=row.meaning + absent + _today(row.option))


def _parameter_option(row: ParameterRow) -> Callable[[F], F]:
    unit = f" In {row.unit}." if row.unit and row.kind is not Kind.STRING else ""
    values = f" One of {row.range}." if row.choices else ""
    return click.option(
        row.attribute,
        row.option,
        type=_type(row),
        metavar=_metavar(row),
        multiple=row.repeatable,
        help=row.meaning + values + unit + _today(row.option),
    )


def _argument(row: ParameterRow) -> Callable[[F], F]:
    return click.argument(
        row.attribute,
        cls=NamedArgument,
        option=row.option,
        metavar=f"[{row.option.removeprefix('--').upper()}]",
        required=False,
        meaning=row.meaning + _today(row.option),
    )


def _type(row: ParameterRow) -> click.ParamType[Any]:
    if row.attribute in FILES:
        return click.File("rb")
    return click.STRING if row.kind is Kind.STRING else click.INT


def _metavar(row: ParameterRow) -> str:
    if row.attribute in FILES:
        return "FILE"
    if row.repeatable:
        return "NAME[,NAME...]"
    if row.kind is not Kind.STRING:
        return "N"
    return "URI" if row.unit == "URI" else "NAME"


def _value(row: ParameterRow, given: Any) -> Any:
    if row.attribute in FILES:
        return text_of(given) if given is not None else None
    return _split(given or ()) if row.repeatable else given


def _split(lists: Iterable[str]) -> tuple[str, ...]:
    return tuple(part.strip() for text in lists for part in text.split(",") if part.strip())


def text_of(file: IO[bytes]) -> str:
    """The whole text of a file of UTF-8.

    Raises:
        InvalidParameter: it is not UTF-8.
    """
    try:
        return file.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidParameter(
            f"{getattr(file, 'name', 'the input')} is not UTF-8: {error.reason} at byte {error.start}",
            remedy="convert it to UTF-8",
        ) from error
