"""Options: a table from outside (the agents file, a metronome's message) checked against a struct.

The struct alone says what is allowed; what is wrong is said in words, with the name of the field.
"""

import reprlib
from collections.abc import Mapping
from typing import TypeVar

import msgspec
from msgspec import inspect

StructT = TypeVar("StructT", bound=msgspec.Struct)

_BRIEF = reprlib.Repr()
_BRIEF.maxstring = _BRIEF.maxother = _BRIEF.maxlong = 40

_NOUNS: dict[type[inspect.Type], str] = {
    inspect.IntType: "a whole number",
    inspect.FloatType: "a number",
    inspect.StrType: "a text",
    inspect.BoolType: "true or false",
    inspect.DictType: "a table",
}


class OptionsError(Exception):
    """Raised when a table of options cannot be used.

    Attributes:
        field: The option that is wrong.
        problem: What is wrong with it, for one who reads it beside the option's name.
    """

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field
        self.problem = problem


def check_options(table: Mapping[str, object], options_type: type[StructT]) -> StructT:
    """Check every field of ``table``, strictly: a text is no number, and an unknown field is an error.

    Args:
        table: The options as they were read, by name.
        options_type: The struct that declares them; limits stand in ``msgspec.Meta``.

    Returns:
        The struct, defaults filled in.

    Raises:
        OptionsError: For the first unknown field, else the first missing one, else the first with a wrong value.
    """
    fields = {field.encode_name: field for field in msgspec.structs.fields(options_type)}
    for name in table:
        if name not in fields:
            raise OptionsError(name, f"unknown option; there are: {', '.join(fields) or 'none'}")
    for name, field in fields.items():
        if field.required and name not in table:
            raise OptionsError(name, f"is missing; expected {describe_type(field.type)}")
    for name, value in table.items():
        check_value(name, value, fields[name].type)
    return msgspec.convert(table, options_type)


def check_value(field: str, value: object, type_: object) -> None:
    """Check one value against one annotation.

    Raises:
        OptionsError: If it does not fit: what was expected, and a short form of what came.
    """
    try:
        msgspec.convert(value, type_)
    except msgspec.ValidationError as error:
        problem = f"expected {describe_type(type_)}, got {_BRIEF.repr(value)}"
        raise OptionsError(field, problem) from error


def describe_type(type_: object) -> str:
    """Say what a field takes, such as "a number from 0 to 2"."""
    return _describe(inspect.type_info(type_))


def _describe(info: inspect.Type) -> str:
    match info:
        case inspect.UnionType():
            return " or ".join(_describe(one) for one in info.types if not isinstance(one, inspect.NoneType))
        case inspect.IntType() | inspect.FloatType():
            return _NOUNS[type(info)] + _describe_limits(info)
        case inspect.StrType(min_length=int()):
            return "a text that is not empty"
        case _:
            return _NOUNS.get(type(info), "another type")


def _describe_limits(info: inspect.IntType | inspect.FloatType) -> str:
    limits = (("from", info.ge), ("above", info.gt), ("to", info.le), ("below", info.lt))
    return "".join(f" {word} {limit}" for word, limit in limits if limit is not None)
