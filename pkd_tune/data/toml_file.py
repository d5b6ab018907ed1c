"""What all TOML files of users have in common: how they are read, and how pydantic's errors become one line each."""

import difflib
import json
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, WrapValidator
from pydantic_core import ErrorDetails, PydanticCustomError

from pkd_tune.config import UserError

LONGEST_SHOWN = 80
"""Characters of a wrong value that a message shows."""

Location = Sequence[str | int]


class StrictTable(BaseModel):
    """A table of a file: unknown keys are errors, and values are not converted."""

    model_config = ConfigDict(extra="forbid", strict=True)


def must_be(rule: str) -> WrapValidator:
    """Reports whatever is wrong with a value as one problem that states the whole rule."""

    def check(value: Any, validate: Callable[[Any], Any]) -> Any:
        try:
            return validate(value)
        except ValidationError as error:
            raise PydanticCustomError("rule", "{rule}", {"rule": rule}) from error

    return WrapValidator(check)


def model_error(problem: str) -> PydanticCustomError:
    """Returns the error of a table as a whole, whose message continues its name: 'must have ...'."""
    return PydanticCustomError("model", "{problem}", {"problem": problem})


def read_toml(path: Path, kind: str) -> dict[str, Any]:
    """Reads a TOML file.

    Args:
        path: The file.
        kind: What it should be, for messages: 'space file'.

    Raises:
        UserError: The file cannot be read, or is none.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not a TOML file: {error}") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    return parse_toml(text, str(path), kind)


def parse_toml(text: str, source: str, kind: str) -> dict[str, Any]:
    """Parses TOML.

    Raises:
        UserError: When it is none, or has numbers or nesting that Python's reader refuses.
    """
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{source}: not a TOML file: {str(error).splitlines()[0]}") from error
    except ValueError as error:
        raise UserError(f"{source}: not a {kind}: it has a number of thousands of digits") from error
    except RecursionError as error:
        raise UserError(f"{source}: not a {kind}: its values are nested too deeply") from error


def message(
    error: ErrorDetails, where: Callable[[Location], str], known_keys: Callable[[Location], Sequence[str]]
) -> str:
    """Returns what is wrong, in one line.

    Args:
        error: Of a `ValidationError`.
        where: Returns a location in words, such as `low of alpha in [space]`.
        known_keys: Returns the keys that the table at a location may have.
    """
    location, value = error["loc"], error["input"]
    place = where(location)
    match error["type"]:
        case "rule":
            return f"{place} must be {error['msg']}, but got {shown(value)}"
        case "model":
            return f"{place} {error['msg']}"
        case "extra_forbidden":
            known = known_keys(location[:-1])
            nearest = difflib.get_close_matches(str(location[-1]), known, n=1)
            hint = f"did you mean {nearest[0]}?" if nearest else f"known are {', '.join(known)}"
            if len(location) == 1:
                return f"unknown table or key {location[0]!r}; {hint}"
            within = "in" if len(location) == 2 else "of"
            return f"unknown key {location[-1]!r} {within} {where(location[:-1])}; {hint}"
        case "missing":
            return f"{place} is missing"
        case "too_short":
            return f"{place} must have at least one entry"
        case "list_type":
            return f"{place} must be a list, but got {shown(value)}"
        case _:
            return f"{place} must be a table, but got {shown(value)}"


def shown(value: Any) -> str:
    """Returns a value as TOML or JSON would have it, cut where it is long."""
    try:
        return cut(json.dumps(value, ensure_ascii=False, default=str))
    except ValueError:  # Python refuses to write out whole numbers of thousands of digits
        return "a number of thousands of digits"


def cut(text: str) -> str:
    """Returns a text, cut where it is long."""
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}..."
