"""Valid files made wrong, each a function of a random generator: by bytes, and by what they say."""

from __future__ import annotations

import csv
import io
import json
import os
import struct
import tempfile
import zipfile
from collections import OrderedDict
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import nn

MARK = Path(tempfile.gettempdir()) / f"sepprune-fuzz-ran-{os.getpid()}"
"""A folder that is there once something in a file was executed."""


class Evil:
    """Makes a folder when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(MARK),)


class Shell:
    """Runs a command when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"mkdir {MARK}",)


def deep(levels: int) -> list[Any]:
    """Lists in lists."""
    found: list[Any] = []
    for _ in range(levels):
        found = [found]
    return found


def laughs(levels: int = 60) -> list[Any]:
    """A small list that is endless to print: each level holds the next one twice."""
    found: list[Any] = ["ha"]
    for _ in range(levels):
        found = [found, found]
    return found


PLAIN: list[Any] = [
    *(None, True, False, -1, 0, 1, 3, 7, 16, 17, 255, 4096, 10**6, 10**9, 10**12, 2**31, 2**63),
    *(10**40, -(10**12), 0.5, -0.0, 1e308, float("nan"), float("inf"), float("-inf"), 1e9),
    *("", "x", "0", "1e9", "../../etc/passwd", "/etc/passwd", "a\0b", "os.system", "__class__"),
    *("__init__", "torch", "LSTM", "ConvTasNet", "register_norm", "\ud800", "é" * 300, "A" * 3000),
    *([], {}, [1], [1, "x"], [[]], {"a": 1}, {"": {}}, [10**9] * 3, [-1, -1], list(range(2000))),
    deep(50),
]
"""What JSON can say."""


def objects() -> list[Any]:
    """What pickles can say, beside that."""
    one = torch.ones(1)
    return [
        *(Evil(), Shell(), os.system, Path("x"), OrderedDict(a=1), {1, 2}, (1, 2), b"bytes", 1j),
        *(laughs(), deep(400), {(((1,), 2), 3): 1}, complex, nn.Linear, nn.Linear(2, 2)),
        *(one, torch.empty(0), torch.ones(3, 4), torch.ones(16, 8, 1, dtype=torch.int64)),
        *(torch.ones(16, dtype=torch.bool), torch.ones(8, dtype=torch.complex64)),
        *(torch.full((16,), float("nan")), torch.tensor(3), torch.ones(2, device="meta")),
        *(one.expand(10**12), one.expand(10**6, 10**4), torch.empty(0, 10**9), one.to_sparse()),
        torch.quantize_per_tensor(torch.ones(4), 0.1, 0, torch.qint8),
        *(nn.Parameter(torch.ones(16)), torch.ones(4, dtype=torch.uint16), torch.device("cuda")),
    ]


# -- bytes ----------------------------------------------------------------------------------------


def bytes_changed(data: bytes, random: Random, others: list[bytes] | None = None) -> bytes:
    """One to four changes of bytes: flipped, cut, put in, doubled, taken from another file."""
    found = bytearray(data)
    for _ in range(random.choice((1, 1, 2, 4))):
        at = random.randrange(len(found) + 1)
        if random.random() < 0.5:  # what is at the start says more
            at = min(at, random.randrange(257))
        length = random.choice((1, 1, 2, 4, 8, 64, 1024))
        match random.randrange(8):
            case 0 if found:
                found[at % len(found)] ^= 1 << random.randrange(8)
            case 1:
                found[at : at + length] = random.randbytes(length)
            case 2:
                del found[at:]
            case 3:
                del found[at : at + length]
            case 4:
                found[at:at] = found[at : at + length]
            case 5:
                found[at:at] = random.randbytes(length)
            case 6:
                found[at : at + length] = random.choice((b"\0", b"\xff", b"\x7f", b"9")) * length
            case _:
                other = random.choice(others or [data])
                start = random.randrange(len(other) + 1)
                found[at : at + length] = other[start : start + length]
    return bytes(found)


def garbage(random: Random, starts: tuple[bytes, ...]) -> bytes:
    """Something that begins like a file of the kind."""
    return random.choice((*starts, b"")) + random.randbytes(random.choice((0, 1, 9, 100, 5000)))


# -- trees of plain data --------------------------------------------------------------------------


def tree_changed(value: Any, random: Random, nasty: list[Any]) -> Any:
    """A copy of plain data, a few places of which hold something else."""
    holder = [copied(value)]
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        inside: Any = holder
        while True:
            keys = list(inside) if isinstance(inside, dict) else list(range(len(inside)))
            key = random.choice(keys)
            further = isinstance(inside[key], (dict, list)) and len(inside[key])
            if not further or random.random() < 0.15:
                break
            inside = inside[key]
        match random.randrange(8):
            case 0 if inside is not holder:
                del inside[key]
            case 1 if isinstance(inside, dict):
                inside[random.choice([n for n in nasty if isinstance(n, str)])] = inside.pop(key)
            case 2 if isinstance(inside, list) and inside is not holder:
                inside.append(copied(inside[key]))
            case 3 if isinstance(inside, dict):
                inside[random.choice(keys)] = copied(inside[random.choice(keys)])
            case 4 if isinstance(inside[key], (int, float)):
                inside[key] += random.choice((-1, 1, 1000, 0.5))
            case _:
                inside[key] = copied(random.choice(nasty))
        if not len(holder):
            break
    return holder[0]


def copied(value: Any, known: dict[int, Any] | None = None) -> Any:
    """Containers anew, those in several places once; what else is in them as it is."""
    known = {} if known is None else known
    if id(value) not in known:
        if isinstance(value, dict):
            items = [(key, copied(item, known)) for key, item in value.items()]
            known[id(value)] = type(value)(items)
        elif isinstance(value, list):
            known[id(value)] = [copied(item, known) for item in value]
        else:
            return value
    return known[id(value)]


# -- formats --------------------------------------------------------------------------------------


def json_changed(data: bytes, random: Random) -> bytes:
    """A file of JSON that says something else, or is none."""
    text = json.dumps(tree_changed(json.loads(data), random, PLAIN))
    match random.randrange(12):
        case 0:
            text = text.replace('"', random.choice(("'", "")), random.choice((1, 5)))
        case 1:
            text = "[" * random.choice((500, 100_000)) + text
        case 2:
            text = text.replace("1", random.choice(("9" * 5000, "1e400", "-0", "NaN")), 1)
        case 3:
            return text.encode("utf-16")
    return text.encode(errors="surrogatepass")


def csv_changed(data: bytes, random: Random) -> bytes:
    """A table with other cells, rows and columns."""
    rows = tree_changed(list(csv.reader(io.StringIO(data.decode()))), random, PLAIN[:40])
    text = io.StringIO()
    writer = csv.writer(text)
    for row in rows if isinstance(rows, list) else [rows]:
        writer.writerow(row if isinstance(row, list) else [row])
    return text.getvalue().encode(errors="surrogatepass")


def safetensors_changed(data: bytes, random: Random) -> bytes:
    """Other tensors, another description of the model, or another length of the header."""
    size = int.from_bytes(data[:8], "little")
    header, rest = json.loads(data[8 : 8 + size]), data[8 + size :]
    match random.randrange(6):
        case 0:
            header = tree_changed(header, random, PLAIN)
        case 1:
            name = random.choice([name for name in header if name != "__metadata__"])
            header[name] = tree_changed(header[name], random, PLAIN)
        case 2:  # another shape that is as large
            entry = header[random.choice([name for name in header if name != "__metadata__"])]
            entry["shape"] = random.choice(
                ([*entry["shape"], 1], entry["shape"][::-1], [0, 10**12], [10**12, 0])
            )
            if 0 in entry["shape"]:
                entry["data_offsets"][1] = entry["data_offsets"][0]
        case _:
            told = header["__metadata__"]
            changed = tree_changed(json.loads(told["header"]), random, PLAIN)
            told["header"] = json.dumps(changed)
            if random.random() < 0.05:
                told["header"] = "[" * 100_000
    text = json.dumps(header).encode(errors="replace")
    if random.random() < 0.1:  # one name twice
        text = text[:-1] + b"," + text[1:]
    length = len(text) if random.random() > 0.05 else random.choice((0, 1, 2**31, 2**63, 10**9))
    return length.to_bytes(8, "little") + text + rest


def pickle_changed(data: bytes, random: Random) -> bytes:
    """A file of ``torch.save`` of something else, in either format, or packed in another way."""
    new = data[:2] == b"PK"
    if new and random.random() < 0.3:
        return archive_changed(data, random)
    content = torch.load(io.BytesIO(data), weights_only=False)
    nasty = PLAIN[:-1] + objects() if random.random() < 0.6 else PLAIN
    changed, found = tree_changed(content, random, nasty), io.BytesIO()
    try:
        torch.save(changed, found, _use_new_zipfile_serialization=new)
    except Exception:  # what cannot be written makes no file
        return bytes_changed(data, random)
    return found.getvalue()


def archive_changed(data: bytes, random: Random) -> bytes:
    """Records with other bytes, names and sizes, packed or not."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    name = random.choice([n for n in records if n.endswith("data.pkl")] * 4 + list(records))
    match random.randrange(6):
        case 0:
            records[random.choice(("../../x", "/tmp/x", "archive/data/99"))] = records.pop(name)
        case 1:
            del records[name]
        case 2:
            storage = random.choice([n for n in records if "/data/" in n] or list(records))
            records[storage] = b"\0" * random.choice((0, 1, 10**7))
        case _:
            records[name] = opcodes_changed(records[name], random)
    found = io.BytesIO()
    packing = random.choice((zipfile.ZIP_STORED, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
    with zipfile.ZipFile(found, "w", packing) as archive:
        for entry, record in records.items():
            archive.writestr(entry, record)
    return found.getvalue()


def opcodes_changed(data: bytes, random: Random) -> bytes:
    """A pickle with another number, name or operation in it."""
    names = [
        b"torch\nFloatStorage",
        b"collections\nOrderedDict",
        b"torch._utils\n_rebuild_tensor_v2",
    ]
    others = [
        b"os\nsystem",
        b"builtins\neval",
        b"torch\nTensor",
        b"torch\nload",
        b"torch\nHalfStorage",
    ]
    match random.randrange(5):
        case 0:
            return data.replace(random.choice(names), random.choice(others + names), 1)
        case 1:  # numbers of one byte become large ones
            at = data.find(b"K", random.randrange(len(data)))
            large = random.choice((2**31 - 1, -1, 2**24, 0))
            return data[:at] + b"J" + struct.pack("<i", large) + data[at + 2 :]
        case 2:
            at = data.find(b"M", random.randrange(len(data)))
            return data[:at] + b"\x8a\x08" + b"\xff" * 7 + b"\x0f" + data[at + 3 :]
        case 3:  # a value put under a number far away, and taken from there
            return data[:-1] + b"r\xff\xff\xff\xffj\xff\xff\xff\xff."
        case _:
            return bytes_changed(data, random)


def audio_changed(data: bytes, random: Random) -> bytes:
    """A header that says other sizes, rates and channels."""
    found = bytearray(data)
    for _ in range(random.choice((1, 1, 2))):
        at = random.randrange(min(len(found), 64) - 8)
        width, order = random.choice((2, 4, 4, 8)), random.choice(("little", "big"))
        value = random.choice(
            (0, 1, 2, 3, 8000, 65535, 10**9, 2**31 - 1, 2**31, 2**32 - 1, 2**63, 2**36 - 1)
        )
        found[at : at + width] = (value % (1 << 8 * width)).to_bytes(width, order)
    return bytes(found)


def text_changed(data: bytes, random: Random) -> bytes:
    """A text with other numbers, marks and lines."""
    text, lines = data.decode(), data.decode().splitlines()
    match random.randrange(6):
        case 0:
            lines.insert(random.randrange(len(lines) + 1), random.choice(lines))
        case 1:
            lines[random.randrange(len(lines))] = str(random.choice(PLAIN))
        case 2:
            at = random.randrange(len(lines))
            odd = ("!!python/object/apply:os.mkdir [x]", "2020-99-99", "0b_", "!!bool x", "&a [*a]")
            lines[at] = f"{lines[at].partition(':')[0]}: {random.choice(odd)}"
        case 3:
            return ("{a: " * random.choice((10, 3000)) + text).encode()
        case 4:
            at = random.randrange(len(text))
            return (text[:at] + random.choice("[]{}:-*&!|>'\"%@`,#?\0\t") + text[at:]).encode()
        case _:
            return bytes_changed(data, random)
    return "\n".join(lines).encode(errors="surrogatepass")
