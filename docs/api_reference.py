"""The reference of the API as Markdown: the calls from the comments of the .proto files, the library from its docstrings."""

from __future__ import annotations

import ast
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
    MethodDescriptorProto,
)
from grpc_tools import protoc

from vmferry import sync

PROTO = Path(__file__).parents[1] / "proto"
PACKAGE = ".vmferry.api.v1."
_MESSAGE, _ENUM, _SERVICE = 4, 5, 6
_FIELD, _VALUE, _METHOD = 2, 2, 2
_SCALARS = {value: name.removeprefix("TYPE_").lower() for name, value in FieldDescriptorProto.Type.items()}


@cache
def files() -> Sequence[FileDescriptorProto]:
    """Every file of the contract, with its comments."""
    names = [str(path.relative_to(PROTO)) for path in sorted(PROTO.rglob("*.proto"))]
    with tempfile.TemporaryDirectory() as directory:
        target = Path(directory) / "set"
        flags = [f"-I{PROTO}", "--include_source_info", f"--descriptor_set_out={target}"]
        assert protoc.main(["protoc", *flags, *names]) == 0
        return FileDescriptorSet.FromString(target.read_bytes()).file


def services() -> str:
    """Each service with its calls and their messages, then the nouns that several share."""
    parts = [_service(file, place) for file in files() for place in range(len(file.service))]
    asked = {name for file in files() for service in file.service for method in service.method for name in _named(method)}
    shared = [_messages(file, _without(file, asked)) for file in files()]
    enums = [_enum(file, place, each) for file in files() for place, each in enumerate(file.enum_type)]
    text = "\n".join([*parts, "## Nouns\n", *filter(None, shared), "## Enumerations\n", *enums])
    return re.sub(r"\n{3,}", "\n\n", text)


def _service(file: FileDescriptorProto, place: int) -> str:
    service, said = file.service[place], _comments(file)
    lines = [f"## {service.name}\n", said.get((_SERVICE, place), ""), "", "| call | answers | |", "|---|---|---|"]
    for number, method in enumerate(service.method):
        answer = ("stream of " if method.server_streaming else "") + _link(method.output_type)
        asked = ("stream of " if method.client_streaming else "") + _link(method.input_type)
        lines.append(f"| `{method.name}` ({asked}) | {answer} | {_cell(said.get((_SERVICE, place, _METHOD, number), ''))} |")
    wanted = dict.fromkeys(name for method in service.method for name in _named(method))
    return "\n".join([*lines, "", _messages(file, tuple(wanted))])


def _named(method: MethodDescriptorProto) -> tuple[str, str]:
    return method.input_type.removeprefix(PACKAGE), method.output_type.removeprefix(PACKAGE)


def _without(file: FileDescriptorProto, names: set[str]) -> tuple[str, ...]:
    return tuple(message.name for message in file.message_type if message.name not in names)


def _messages(file: FileDescriptorProto, names: Sequence[str]) -> str:
    known = {message.name: (place, message) for place, message in enumerate(file.message_type)}
    return "\n".join(filter(None, (_message(file, *known[name]) for name in names if name in known)))


def _message(file: FileDescriptorProto, place: int, message: DescriptorProto) -> str:
    said = _comments(file)
    lines = [f"### {message.name}\n", said.get((_MESSAGE, place), ""), ""]
    if not message.field:
        return ""
    lines += ["| field | type | |", "|---|---|---|"]
    for number, field in enumerate(message.field):
        about = said.get((_MESSAGE, place, _FIELD, number), "")
        lines.append(f"| `{field.name}` | {_type(field)} | {_cell(about)} |")
    return "\n".join([*lines, ""])


def _type(field: FieldDescriptorProto) -> str:
    name = _link(field.type_name) if field.type_name else _SCALARS[field.type]
    repeated = field.label == FieldDescriptorProto.LABEL_REPEATED
    return f"list of {name}" if repeated else f"{name}, or absent" if field.proto3_optional else name


def _enum(file: FileDescriptorProto, place: int, enum: EnumDescriptorProto) -> str:
    said = _comments(file)
    lines = [f"### {enum.name}\n", said.get((_ENUM, place), ""), "", "| value | number | |", "|---|---|---|"]
    for number, value in enumerate(enum.value):
        lines.append(f"| `{value.name}` | {value.number} | {_cell(said.get((_ENUM, place, _VALUE, number), ''))} |")
    return "\n".join([*lines, ""])


def _link(name: str) -> str:
    short = name.removeprefix(PACKAGE)
    return f"[{short}](#{short.lower()})" if name.startswith(PACKAGE) and "." not in short else f"`{short.lstrip('.')}`"


def _comments(file: FileDescriptorProto) -> Mapping[tuple[int, ...], str]:
    return {
        tuple(place.path): _text(place.leading_comments or place.trailing_comments)
        for place in file.source_code_info.location
    }


def _text(comment: str) -> str:
    return "\n".join(line.strip() for line in comment.strip().splitlines())


def _cell(text: str) -> str:
    return re.sub(r"\s+", " ", text).replace("|", "\\|").strip()


def library() -> str:
    """The calls of a connection: what is true after each."""
    rows = [f"| `{call}` | {_cell(text)} |" for call, text in _calls()]
    return "\n".join(["| call | |", "|---|---|", *rows]) + "\n"


def _calls() -> Iterator[tuple[str, str]]:
    tree = ast.parse(Path(sync.__file__).read_text())
    (connection,) = (node for node in tree.body if isinstance(node, ast.ClassDef))
    for node in connection.body:
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_") and not node.decorator_list:
            node.args.args = node.args.args[1:]
            returns = ast.unparse(node.returns) if node.returns else "None"
            call = f"{node.name}({ast.unparse(node.args)}) -> {returns}".replace("|", "\\|")
            yield call, (ast.get_docstring(node) or "").split("\n\n")[0]
