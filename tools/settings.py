"""Settings and where each came from: flag > QUORIX_* > HOME/config.toml > default.

Whatever has settings declares them in one table of `Setting`s: the node in `tools.node.config`, commands in COMMANDS here.
The environment variable of a setting is QUORIX_ and its name in capitals. One home has one file for all of them; a key in
it that nobody declared is an error that names the nearest known one. What all nodes of a chain must agree on is in its
specification and never here.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ledger.errors import UsageError

MAX_CONFIG_BYTES: Final = 1 << 20
MAX_DIGITS: Final = 18
YES: Final = ("1", "true", "yes")
NO: Final = ("0", "false", "no")


@dataclass(frozen=True)
class Setting:
    """One setting. `kind` is int, bool, str or list (of strings)."""

    kind: type
    default: Any
    about: str


COMMANDS: Final[dict[str, Setting]] = {
    "rpc": Setting(str, "", "RPC address of the node that commands ask; default: a running devnet's, or port 9900"),
    "devnet": Setting(str, "", "name of the devnet that commands mean; default: the one that runs"),
    "gateway": Setting(str, "", "address of the gateway that `ai query` asks; default: a running devnet's, or port 9941"),
}


def config_path(home: Path) -> Path:
    """The file of a home."""
    return home / "config.toml"


def variable(name: str) -> str:
    """The environment variable of a setting."""
    return f"QUORIX_{name.upper()}"


def gather(
    settings: Mapping[str, Setting], home: Path, flags: Mapping[str, Any], environment: Mapping[str, str] | None = None, *,
    also: Collection[str] = (),
) -> tuple[dict[str, Any], dict[str, str]]:
    """(value, origin) of every setting. Flags that are None or () were not given; an origin is "flag", a variable, the
    file's path or "default". `also`: names that others declared and that may stand in the file. Raises UsageError."""
    path = config_path(home)
    environment = os.environ if environment is None else environment
    written = read_file(path, [*settings, *also])
    values: dict[str, Any] = {}
    origin: dict[str, str] = {}
    for name, setting in settings.items():
        place = variable(name)
        if flags.get(name) is not None and flags[name] != ():
            values[name], origin[name] = checked(setting, name, flags[name], "flag"), "flag"
        elif place in environment:
            values[name], origin[name] = from_text(setting, place, environment[place]), place
        elif name in written:
            values[name], origin[name] = checked(setting, name, written[name], str(path)), str(path)
        else:
            values[name], origin[name] = setting.default, "default"
    return values, origin


def read_file(path: Path, known: Collection[str]) -> dict[str, Any]:
    """The file's table; empty if there is no file. Raises UsageError for damage and unknown keys."""
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_CONFIG_BYTES + 1)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from None
    if len(data) > MAX_CONFIG_BYTES:
        raise UsageError(f"{path} is larger than {MAX_CONFIG_BYTES} bytes")
    try:
        tree = tomllib.loads(data.decode())
    except (ValueError, RecursionError) as error:  # not UTF-8, not TOML, a number of thousands of digits
        raise UsageError(f"{path} is not TOML: {error}", hint="mend or remove that file") from None
    for key in tree:
        if key not in known:
            raise UsageError(f"{path}: unknown setting {key!r}", hint=nearest(key, known))
    return tree


def nearest(name: str, known: Collection[str]) -> str:
    """A hint: the known name that is most like the unknown one, or all of them."""
    near = difflib.get_close_matches(name[:64], known, 1, 0.5)
    return f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"


def checked(setting: Setting, name: str, value: Any, place: str) -> Any:
    """The value, if it is of the setting's kind. Raises UsageError naming the place it came from."""
    kind = setting.kind
    if kind is list and isinstance(value, list | tuple) and all(isinstance(item, str) for item in value):
        return list(value)
    if kind is not list and type(value) is kind:
        return value
    words = {int: "a whole number", bool: "true or false", str: "text", list: "a list of texts"}
    raise UsageError(f"{name} = {value!r} ({place}); expected {words[kind]}")


def from_text(setting: Setting, place: str, text: str) -> Any:
    """The value in a text: true/false, a whole number, text, or a list separated by commas. Raises UsageError."""
    if setting.kind is bool:
        if text.lower() not in (*YES, *NO):
            raise UsageError(f"{place} = {text!r}; expected true or false")
        return text.lower() in YES
    if setting.kind is int:
        digits = text[1:] if text.startswith("-") else text
        if not (digits.isascii() and digits.isdecimal()) or len(digits) > MAX_DIGITS:
            raise UsageError(f"{place} = {text!r}; expected a whole number")
        return int(text)
    if setting.kind is list:
        return [item.strip() for item in text.split(",") if item.strip()]
    return text
