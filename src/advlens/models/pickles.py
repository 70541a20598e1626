"""Pickles read as data: nothing that a pickle names is imported, called or changed.

A pickle is a program. `pickle.Unpickler` with a list of allowed names still calls them with
arguments of the file's choice, and its BUILD sets attributes of anything on its stack. Here an
instruction can only build lists, dictionaries, tuples and three inert records: a name, a call that
the file requests, and a reference out of the pickle. The reader of the result looks for the few
calls that it knows, such as torch's for tensors, and does their work itself.

The result may share its parts, so that a hundred bytes stand for 2¹⁰⁰ nested tuples; it may contain
itself, or be nested a hundred thousand deep. Never walk through it: no `str`, `repr`, `==` or
`hash` of anything that is not known to be a plain value.
"""

import pickletools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, BinaryIO

MAX_INSTRUCTIONS = 200_000
"""A checkpoint of a thousand tensors with Adam's state has 60 000."""
MAX_BYTES = 1 << 24
"""The pickle of such a checkpoint has 200 000."""
LONGEST = 1000
"""Maximum length of a key of a dictionary or storage, in characters."""
_LARGEST = 4096
"""Maximum number of bits in a number."""

_ATTACKS = {
    "builtins": {"eval", "exec", "compile", "open", "__import__", "breakpoint", "input"},
    **dict.fromkeys(
        (
            "asyncio",
            "bdb",
            "code",
            "codeop",
            "ctypes",
            "ftplib",
            "http",
            "importlib",
            "marshal",
            "multiprocessing",
            "nt",
            "os",
            "pdb",
            "pickle",
            "_pickle",
            "pip",
            "posix",
            "profile",
            "cProfile",
            "pty",
            "runpy",
            "shutil",
            "signal",
            "smtplib",
            "socket",
            "subprocess",
            "sys",
            "tempfile",
            "threading",
            "timeit",
            "trace",
            "urllib",
            "webbrowser",
            "zipimport",
        )
    ),
}
"""Modules, or names in them, that occur in attacks. They would do nothing here, and this list need
not be complete, but a file made to run code deserves no trust in its weights either."""
_OLD = {"__builtin__": "builtins"}


@dataclass(frozen=True, eq=False)
class Name:
    """Something that the file names."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(frozen=True, eq=False, repr=False)
class Call:
    """A call that the file requests; it is never made."""

    function: object
    arguments: Any

    @property
    def name(self) -> str:
        """The name of what it calls, if it has one."""
        return str(self.function) if type(self.function) is Name else ""

    def __str__(self) -> str:
        return f"{self.name}(…)" if self.name else "call"


@dataclass(frozen=True, eq=False, repr=False)
class Reference:
    """A reference to something outside the pickle."""

    identity: object


def shown(text: str, length: int = 80) -> str:
    """A text from the file made safe for a message: short and printable."""
    cut = text[:length]
    return cut if cut.isprintable() else ascii(cut)[1:-1]


class UnsafeError(ValueError):
    """The pickle names what weights do not need, so it was made to run code."""


@dataclass
class _Machine:
    stack: list[Any] = field(default_factory=list)
    below: list[list[Any]] = field(default_factory=list)  # the stacks under the marks
    memo: dict[int, Any] = field(default_factory=dict)
    references: list[Reference] = field(default_factory=list)

    def marked(self) -> list[Any]:
        items = self.stack
        self.stack = self.below.pop()
        return items

    def mark(self) -> None:
        self.below.append(self.stack)
        self.stack = []

    def pop(self) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self.marked()

    def name(self, module: str, name: str) -> None:
        module, name = shown(module), shown(name)  # a long one would be copied at every use
        module = _OLD.get(module, module)
        package = module.partition(".")[0]
        if package in _ATTACKS and name in (_ATTACKS[package] or (name,)):
            raise UnsafeError(str(Name(module, name)))
        self.stack.append(Name(module, name))

    def stack_name(self) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        if not type(module) is type(name) is str:
            raise ValueError("a name is not a text")
        self.name(module, name)

    def call(self) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        made = Call(function, arguments)
        empty = made.name == "collections.OrderedDict" and not arguments
        self.stack.append({} if empty or made.name == "collections.defaultdict" else made)

    def call_marked(self) -> None:
        function, *arguments = self.marked()
        self.stack.append(Call(function, arguments))

    def extend(self, items: list[Any]) -> None:
        if type(self.stack[-1]) is list:
            self.stack[-1].extend(items)

    def put(self, items: list[Any]) -> None:
        if type(target := self.stack[-1]) is dict:
            for key, value in zip(items[::2], items[1::2], strict=True):
                if not plain_key(key):
                    raise ValueError("a dictionary's key is not a plain value")
                target[key] = value

    def new_dict(self, items: list[Any]) -> None:
        self.stack.append({})
        self.put(items)

    def instance(self, name: str) -> None:
        arguments = self.marked()
        self.name(*name.split(" ", 1))
        self.stack.append(Call(self.stack.pop(), arguments))

    def refer(self, identity: object) -> None:
        reference = Reference(identity)
        self.references.append(reference)
        self.stack.append(reference)

    def take(self, count: int) -> list[Any]:
        items = self.stack[len(self.stack) - count :]
        if len(items) != count:
            raise IndexError("the stack is too short")
        del self.stack[len(self.stack) - count :]
        return items

    def push(self, value: object) -> None:
        self.stack.append(value)

    def number(self, value: int) -> None:
        if value.bit_length() > _LARGEST:
            raise ValueError(f"a number of {value.bit_length()} bits")
        self.stack.append(value)

    def remember(self, number: int) -> None:
        if not plain_key(number):
            raise ValueError("a place in the memo is not a plain number")
        self.memo[number] = self.stack[-1]


def plain_key(key: object) -> bool:
    """Whether a value can be a key: it compares quickly, and the file cannot force collisions.

    The hash of a tuple walks through it, a long text is compared anew at each use, and numbers
    beyond 64 bits can be chosen to share one hash.
    """
    if isinstance(key, (str, bytes)):
        return len(key) <= LONGEST
    if isinstance(key, int):
        return key.bit_length() <= 64
    return isinstance(key, (float, type(None)))


_Step = Callable[[_Machine, Any], object]
_STEPS: dict[str, _Step] = {
    "PROTO": lambda m, a: None,
    "FRAME": lambda m, a: None,
    "NONE": lambda m, a: m.push(None),
    "NEWTRUE": lambda m, a: m.push(True),
    "NEWFALSE": lambda m, a: m.push(False),
    "EMPTY_LIST": lambda m, a: m.push([]),
    "EMPTY_TUPLE": lambda m, a: m.push(()),
    "EMPTY_DICT": lambda m, a: m.push({}),
    "EMPTY_SET": lambda m, a: m.push([]),
    "MARK": lambda m, a: m.mark(),
    "LIST": lambda m, a: m.push(m.marked()),
    "FROZENSET": lambda m, a: m.push(m.marked()),
    "TUPLE": lambda m, a: m.push(tuple(m.marked())),
    "TUPLE1": lambda m, a: m.push(tuple(m.take(1))),
    "TUPLE2": lambda m, a: m.push(tuple(m.take(2))),
    "TUPLE3": lambda m, a: m.push(tuple(m.take(3))),
    "DICT": lambda m, a: m.new_dict(m.marked()),
    "APPEND": lambda m, a: m.extend(m.take(1)),
    "APPENDS": lambda m, a: m.extend(m.marked()),
    "ADDITEMS": lambda m, a: m.extend(m.marked()),
    "SETITEM": lambda m, a: m.put(m.take(2)),
    "SETITEMS": lambda m, a: m.put(m.marked()),
    "POP": lambda m, a: m.pop(),
    "POP_MARK": lambda m, a: m.marked(),
    "DUP": lambda m, a: m.push(m.stack[-1]),
    "MEMOIZE": lambda m, a: m.remember(len(m.memo)),
    "GLOBAL": lambda m, a: m.name(*a.split(" ", 1)),
    "STACK_GLOBAL": lambda m, a: m.stack_name(),
    "REDUCE": lambda m, a: m.call(),
    "NEWOBJ": lambda m, a: m.call(),
    "NEWOBJ_EX": lambda m, a: m.push(Call(*m.take(3)[:2])),
    "OBJ": lambda m, a: m.call_marked(),
    "INST": lambda m, a: m.instance(a),
    "BUILD": lambda m, a: m.take(1),  # an object's state: no object here has one
    "PERSID": lambda m, a: m.refer(a),
    "BINPERSID": lambda m, a: m.refer(m.stack.pop()),
}
for _kind in ("PUT", "BINPUT", "LONG_BINPUT"):
    _STEPS[_kind] = lambda m, a: m.remember(a)
for _kind in ("GET", "BINGET", "LONG_BINGET"):
    _STEPS[_kind] = lambda m, a: m.push(m.memo[a])
for _kind in ("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4"):
    _STEPS[_kind] = lambda m, a: m.number(a)
for _kind in (
    "FLOAT",
    "BINFLOAT",
    "STRING",
    "BINSTRING",
    "SHORT_BINSTRING",
    "BINBYTES",
    "SHORT_BINBYTES",
    "BINBYTES8",
    "BYTEARRAY8",
    "UNICODE",
    "BINUNICODE",
    "SHORT_BINUNICODE",
    "BINUNICODE8",
):
    _STEPS[_kind] = lambda m, a: m.push(a)


def read_pickle(file: BinaryIO) -> tuple[Any, list[Reference]]:
    """A pickle's content as data, and the references in it; the file position is then after it.

    Raises:
        UnsafeError: the pickle names what weights do not need.
        Exception: of any kind, if the pickle is damaged.
    """
    machine = _Machine()
    for count, (code, argument, _) in enumerate(pickletools.genops(file)):
        if code.name == "STOP":
            return machine.stack.pop(), machine.references
        if count == MAX_INSTRUCTIONS:
            raise ValueError(f"it has more than {MAX_INSTRUCTIONS:,} instructions")
        _STEPS[code.name](machine, argument)
    raise EOFError("it is cut off")
