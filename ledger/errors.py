"""Every failure Quorix reports: a stable name, a cause, a next step, and the codes shown by the CLI and the RPC.

Two kinds exist. *Bad input* raises an `Error` and changes nothing. A *broken invariant* raises a `Fault`, which stops
the node loudly with an exit code of 20 or more. Names and numbers are declared here once and never reused.

    exit code  0 ok · 1 refused by the chain, a missed target or a failed check · 2 usage · 3 not found
               4 unreachable · 5 key locked or wrong password · 6 timeout, outcome unknown · 7 aborted
               8 unknown runtime version · 20 double-sign risk · 21 two certificates · 22 broken invariant
               23 corruption · 24 disk · 25 wrong genesis · 26 newer schema · 27 locked · 70 bug · 130 interrupted
"""

from __future__ import annotations

from typing import Any, ClassVar, Final


class Error(Exception):
    """Base of all expected failures.

    Class attributes give the defaults; `cause` and `hint` may be set per instance. `data` holds JSON-ready details.
    """

    name: ClassVar[str] = "Error"
    exit_code: ClassVar[int] = 1
    rpc_code: ClassVar[int] = -32000
    default_hint: ClassVar[str] = ""

    def __init__(self, cause: str, *, hint: str | None = None, **data: Any) -> None:
        super().__init__(cause)
        self.cause = cause
        self.hint = self.default_hint if hint is None else hint
        self.data = data

    def __str__(self) -> str:
        return f"{self.name}: {self.cause}"


class UsageError(Error):
    """The command line, a parameter or a configuration file is wrong."""

    name = "UsageError"
    exit_code = 2
    rpc_code = -32602


class NotFound(Error):
    """What was asked for does not exist (block, account, subnet, neuron, receipt, file...)."""

    name = "NotFound"
    exit_code = 3
    rpc_code = -32001


class Unreachable(Error):
    """A node, gateway or neuron does not answer at its address."""

    name = "Unreachable"
    exit_code = 4
    rpc_code = -32006
    default_hint = "is the devnet running? see `quorix devnet status`"


class KeyLocked(Error):
    """A key file is encrypted and no password, or a wrong one, was given."""

    name = "KeyLocked"
    exit_code = 5


class KeyFileError(Error):
    """A key file cannot be used or written: it is malformed, unreadable, open to others, or already there."""

    name = "KeyFileError"
    exit_code = 5


class Timeout(Error):
    """The deadline passed; whether the action happened is unknown."""

    name = "Timeout"
    exit_code = 6
    rpc_code = -32002


class Aborted(Error):
    """The user declined, or a confirmation could not be asked."""

    name = "Aborted"
    exit_code = 7


class UnknownRuntimeVersion(Error):
    """The next block needs rules that this program does not contain."""

    name = "UnknownRuntimeVersion"
    exit_code = 8


class DecodeError(Error):
    """Bytes from outside are not a valid encoding; `where` names the field."""

    name = "DecodeError"
    rpc_code = -32602

    def __init__(self, cause: str, *, where: str = "") -> None:
        super().__init__(f"{where}: {cause}" if where else cause, where=where)
        self.where = where


class Rejected(Error):
    """An extrinsic, block or message breaks a rule. `error_name` is the rule's stable name."""

    rpc_code = -32003

    def __init__(self, error_name: str, cause: str = "", *, hint: str = "", **data: Any) -> None:
        super().__init__(cause or error_name, hint=hint, **data)
        self.error_name = error_name

    def __str__(self) -> str:
        return self.error_name if self.cause == self.error_name else f"{self.error_name}: {self.cause}"


class Pruned(Error):
    """The state of that height is no longer kept by this node."""

    name = "Pruned"
    rpc_code = -32004
    default_hint = "ask an archive node, or a height within the retained window"


class RateLimited(Error):
    """Too many requests."""

    name = "RateLimited"
    rpc_code = -32005


class NotReady(Error):
    """The service is starting, syncing or shutting down."""

    name = "NotReady"
    rpc_code = -32006


class Unsafe(Error):
    """The method is served on the admin socket only."""

    name = "Unsafe"
    rpc_code = -32007


class Fault(Error):
    """The node must stop: going on could lose data or sign twice."""

    name = "Fault"
    exit_code = 70


class DoubleSignRisk(Fault):
    """The signer refuses: this key may already have signed something else."""

    name = "DoubleSignRisk"
    exit_code = 20


class TwoCertificates(Fault):
    """Two valid certificates for one height: more than a third of the authorities are faulty."""

    name = "TwoCertificates"
    exit_code = 21


class InvariantBroken(Fault):
    """A rule that can never fail has failed; the ledger would be wrong. `dump` reproduces it (`ledger/dumps.py`)."""

    name = "InvariantBroken"
    exit_code = 22
    dump: bytes = b""


class Corruption(Fault):
    """The database does not contain what was written."""

    name = "Corruption"
    exit_code = 23
    default_hint = "stop the node, then `quorix db repair --home HOME`; leave the sign database where it is"


class DiskFailure(Fault):
    """A write or sync failed, or the disk is full."""

    name = "DiskFailure"
    exit_code = 24


class WrongGenesis(Fault):
    """The database or the peer belongs to another chain."""

    name = "WrongGenesis"
    exit_code = 25


class NewerSchema(Fault):
    """The database was written by a newer version of Quorix."""

    name = "NewerSchema"
    exit_code = 26


class Locked(Fault):
    """Another process has the database or the devnet open."""

    name = "Locked"
    exit_code = 27


# What Python raises where code meets what it did not expect: a mistake in the rules, or damaged bytes.
BUGS: Final = (AssertionError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
UNREADABLE: Final = (Error, *BUGS)  # what reading a damaged row may raise
