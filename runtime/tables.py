"""Typed state keys: each table has a number, named key fields and a value type; nothing else touches raw keys.

    key   = 2-byte table number || key fields, big-endian or fixed width: iteration order is numeric order
    value = strict CBOR of the value: an int, bytes, a list, or a dataclass as the array of its fields

A dataclass used as a value holds only ints, bytes, bools, str, None, and lists (not tuples) of them. The modules
declare their tables next to their rules, with numbers from the ranges below; `Table.registry` knows them all.

    1..19 accounts, fees, blocks · 20..39 subnets, neurons · 40..59 stake · 60..79 weights, epochs · 80..89 serving
    90..109 authorities · 110..134 governance, parameters, proxies · 135..149 challenges, coldkey swaps

Rules: BLK-9 state keys and values
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import fields, is_dataclass
from operator import attrgetter, ne
from typing import Any, ClassVar, Generic, Protocol, TypeVar, cast

from ledger.codec import decode, decode_trusted, encode, encode_each
from ledger.errors import DecodeError

from .state import State

V = TypeVar("V")

MAX_VALUE_BYTES = 1 << 20
MAX_DECODED = 1 << 13  # decoded values that a table remembers


class ReadState(Protocol):
    def get(self, key: bytes) -> bytes | None: ...

    def items(self, prefix: bytes, after: bytes = b"") -> Iterator[tuple[bytes, bytes]]: ...


class WriteState(ReadState, Protocol):
    def put(self, key: bytes, value: bytes | None) -> None: ...


class KeyField:
    """A fixed-width part of a key."""

    def __init__(self, name: str, width: int, *, number: bool) -> None:
        self.name, self.width, self.number = name, width, number
        self.pack: Callable[[Any], bytes] = self._pack_number if number else self._pack_bytes

    def _pack_number(self, value: int) -> bytes:
        return value.to_bytes(self.width, "big")

    def _pack_bytes(self, value: bytes) -> bytes:
        assert type(value) is bytes and len(value) == self.width, self.name
        return value

    def unpack(self, data: bytes) -> int | bytes:
        return int.from_bytes(data, "big") if self.number else data


def u16_field(name: str) -> KeyField:
    return KeyField(name, 2, number=True)


def u32_field(name: str) -> KeyField:
    return KeyField(name, 4, number=True)


def u64_field(name: str) -> KeyField:
    return KeyField(name, 8, number=True)


def key_field(name: str) -> KeyField:
    """A 32-byte public key or hash."""
    return KeyField(name, 32, number=False)


def _is_immutable(kind: type) -> bool:
    """True if values of this type can be shared: nobody can change one in place, or nobody may (`REPLACED_ONLY`)."""
    if not is_dataclass(kind):
        return kind in (int, bytes, str, bool)
    if getattr(kind, "REPLACED_ONLY", False):
        return True
    frozen = cast(Any, kind).__dataclass_params__.frozen
    return bool(frozen) and not any("list" in str(field.type) for field in fields(kind))


def _fields_of(kind: type) -> Callable[[Any], Any]:
    """Reads all fields of a dataclass at once, in order."""
    names = [field.name for field in fields(cast(Any, kind))]
    return attrgetter(*names) if len(names) > 1 else lambda value: [getattr(value, name) for name in names]


def _key_maker(prefix: bytes, key: tuple[KeyField, ...]) -> Callable[..., bytes]:
    """(key fields...) -> raw key; fewer fields give a prefix."""

    def raw_key(*parts: int | bytes) -> bytes:
        return prefix + b"".join([field.pack(part) for field, part in zip(key, parts, strict=False)])

    def of_bytes(part: bytes | None = None) -> bytes:
        return prefix if part is None else prefix + part

    return of_bytes if len(key) == 1 and not key[0].number else raw_key


class Table(Generic[V]):
    """A family of state keys with one value type."""

    registry: ClassVar[dict[int, Table[Any]]] = {}
    name: str

    def __init__(self, number: int, name: str, kind: type[V], *key: KeyField, remembered: bool = False) -> None:
        """`remembered`: values made in one block are kept for the next ones, where the view can do that."""
        assert number not in Table.registry or Table.registry[number].name == name, f"table {number} declared twice"
        self.number, self.name, self.kind, self.fields = number, name, kind, key
        self.prefix = number.to_bytes(2, "big")
        self._record = is_dataclass(kind)
        self._fields_of = _fields_of(kind) if self._record else None
        self._immutable = _is_immutable(kind)
        assert self._immutable or not remembered, f"values of {name} can be changed in place"
        self.remembered = remembered
        self._decoded: dict[bytes, V] = {}  # immutable values by their encoding
        self._width = 2 + sum(field.width for field in key)
        self.key = _key_maker(self.prefix, key)
        Table.registry[number] = self

    def __init_subclass__(cls) -> None:
        """A table with an encoding of its own has no faster way to read or write it."""
        if cls.decode is not Table.decode:
            cls.decode_own = cls.decode  # type: ignore[method-assign]
        if cls.encode is not Table.encode:
            cls.encode_each = lambda self, values: list(map(self.encode, values))  # type: ignore[method-assign]

    def parts(self, key: bytes) -> tuple[Any, ...]:
        """Key fields of a raw key."""
        out, at = [], 2
        for field in self.fields:
            out.append(field.unpack(key[at : at + field.width]))
            at += field.width
        assert at == len(key), f"key of table {self.name} has {len(key)} bytes"
        return tuple(out)

    def encode(self, value: V) -> bytes:
        fields_of = self._fields_of
        return encode(value) if fields_of is None else encode(fields_of(value))

    def encode_each(self, values: Sequence[V]) -> list[bytes]:
        """The encodings of many values."""
        fields_of = self._fields_of
        return list(map(encode, values)) if fields_of is None else encode_each(list(map(fields_of, values)))

    def differ_each(self, values: Sequence[V], others: Sequence[V]) -> list[bool]:
        """Which of many values are not equal to those at the same places."""
        fields_of = self._fields_of
        if fields_of is None:
            return list(map(ne, values, others))
        return list(map(ne, map(fields_of, values), map(fields_of, others)))

    def decode(self, data: bytes) -> V:
        """Raises DecodeError."""
        if (found := self._decoded.get(data)) is not None:
            return found
        value = self._made_of(decode(data, max_bytes=MAX_VALUE_BYTES, where=self.name))
        if self._immutable and type(value) is self.kind:
            if len(self._decoded) >= MAX_DECODED:
                self._decoded.clear()
            self._decoded[data] = value
        return value

    def decode_own(self, data: bytes) -> V:
        """The same for bytes of the state, which `encode` made: without the checks of `decode`. Raises DecodeError."""
        if (found := self._decoded.get(data)) is not None:
            return found
        return self._made_of(decode_trusted(data, where=self.name))

    def _made_of(self, plain: Any) -> V:
        return self.kind(*plain) if self._record else cast(V, plain)

    def get(self, state: ReadState, *parts: int | bytes) -> V | None:
        key = self.key(*parts)
        assert len(key) == self._width, self.name
        if self._immutable and type(state) is State:
            found: V | None = state.value(key, self)
            return found
        data = state.get(key)
        return None if data is None else self.decode(data)

    def put(self, state: WriteState, *parts: int | bytes, value: V) -> None:
        key = self.key(*parts)
        assert len(key) == self._width, self.name
        if self._immutable and type(state) is State:
            state.put_value(key, self, value)
        else:
            state.put(key, self.encode(value))

    def delete(self, state: WriteState, *parts: int | bytes) -> None:
        key = self.key(*parts)
        if state.get(key) is not None:
            state.put(key, None)

    def move(self, state: WriteState, old: tuple[int | bytes, ...], new: tuple[int | bytes, ...]) -> None:
        """Move one entry, if there is one, to another key."""
        value = self.get(state, *old)
        if value is not None:
            self.delete(state, *old)
            self.put(state, *new, value=value)

    def items(self, state: ReadState, *parts: int | bytes) -> Iterator[tuple[tuple[Any, ...], V]]:
        """(key fields, value) of all entries whose first key fields equal `parts`, ascending."""
        for key, data in state.items(self.key(*parts)):
            yield self.parts(key), self.decode(data)


def remembered(values: Iterable[tuple[bytes, bytes]]) -> dict[Table[Any], dict[bytes, Any]]:
    """Of state values, each with its key, what tables remember. A damaged one is left to whoever reads it."""
    made: dict[Table[Any], dict[bytes, Any]] = {table: {} for table in Table.registry.values() if table.remembered}
    tables = {table.prefix: table for table in made}
    for key, data in values:
        if (table := tables.get(key[:2])) is not None:
            try:
                made[table][key] = table.decode_own(data)
            except (DecodeError, TypeError):
                continue
    return made
