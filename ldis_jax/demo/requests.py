"""Requests that the page may send, checked before Gradio handles them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from ldis_jax.demo.uploads import MOST_LAYERS

SESSION_NAME = r"^[\w-]{1,64}$"
_MOST_FILES, _LONGEST_PATH = 16, 4096
_Text = Annotated[str, Field(max_length=_LONGEST_PATH)]


class _File(BaseModel):
    path: _Text
    is_stream: Literal[False] = False
    meta: Any = None


class _Editor(BaseModel):
    background: _File | None = None
    layers: Annotated[list[_File], Field(max_length=MOST_LAYERS)] = []
    composite: _File | None = None
    id: None = None  # of blobs that other pages of Gradio send apart


class _Request(BaseModel):
    session_hash: Annotated[str, Field(pattern=SESSION_NAME)]
    fn_index: Annotated[int, Field(strict=True)]
    data: list[Any]


class Requests:
    """The inputs of each function of a page."""

    def __init__(self, functions: dict[int, Sequence[Any]]):
        """Takes the components that each function reads, by its number."""
        self._inputs = {
            number: [(_name(component), TypeAdapter(_kind(component))) for component in components]
            for number, components in functions.items()
        }

    def error(self, body: bytes, may_read: Callable[[Any], bool]) -> str:
        """The error in a request, as one line; empty if there is none.

        Args:
            body: JSON.
            may_read: whether a path is one of this session's files.
        """
        try:
            request = json.loads(body)
            checked = _Request.model_validate(request)
        except ValidationError as error:
            return _line("Request", error)
        except (ValueError, RecursionError):
            return "The request is no JSON that this page sends"
        inputs = self._inputs.get(checked.fn_index)
        if inputs is None or len(inputs) != len(checked.data):
            return "The request asks for what this page does not do; load the page again"
        for (name, kind), value in zip(inputs, checked.data, strict=True):
            try:
                kind.validate_python(value)
            except ValidationError as error:
                return _line(name, error)
        paths = list(_paths(request))
        if len(paths) > _MOST_FILES:
            return f"The request names {len(paths)} files; {_MOST_FILES} are the most"
        if not all(map(may_read, paths)):
            return "The request names a file that this browser has not uploaded; load the page again, and drop the file"
        return ""


def session_name(body: bytes) -> Any:
    """The name that the page gave itself; None of what is no request."""
    try:
        return json.loads(body)["session_hash"]
    except (ValueError, RecursionError, TypeError, KeyError):
        return None


def _kind(component: Any) -> Any:
    """The type of what a component sends."""
    match component.get_block_name():
        case "image" | "video" | "file" | "uploadbutton":
            return _File | None
        case "imageeditor":
            return _Editor | None
        case "textbox":
            return Annotated[str, Field(max_length=component.max_length)]
        case "slider" | "number":
            bounds = Field(ge=component.minimum, le=component.maximum, allow_inf_nan=False, strict=True)
            return Annotated[float, bounds]
        case "radio" if component.choices:
            return Literal[tuple(value for _, value in component.choices)]
        case "radio":  # of a mask's labels, which are not known yet
            return Annotated[int, Field(ge=1, lt=1 << 16, strict=True)] | None
        case _:
            return None  # what the server keeps itself


def _name(component: Any) -> str:
    label = getattr(component, "label", None) or getattr(component, "elem_id", None) or component.get_block_name()
    return str(label).split(",", maxsplit=1)[0].replace("-", " ").capitalize()


def _line(name: str, error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(map(str, first["loc"]))[:100]
    return f"{name}{' (' + where + ')' if where else ''}: {first['msg']}; load the page again"


def _paths(value: Any) -> Iterator[Any]:
    """Whatever is under "path", however deep."""
    if isinstance(value, dict):
        if "path" in value:
            yield value["path"]
        value = list(value.values())
    if isinstance(value, list):
        for part in value:
            yield from _paths(part)
