"""Finds the code behind a name: a dotted path `pkg.mod:attr`, or an entry point of the group `chattable.agents`."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from importlib.metadata import entry_points
from inspect import Parameter
from operator import attrgetter
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

import msgspec

from chattable.agents.chat import Message
from chattable.agents.chattable import Chattable, Context, Reply
from chattable.agents.parsing import explain

GROUP = "chattable.agents"
PLAIN = (bool, int, float, str, list, dict, tuple, NoneType, Union, UnionType)  # what a config can hold


class LoadError(Exception):
    """An agent that cannot be built; the message says what to change."""


def load(use: str, params: dict[str, Any]) -> Chattable:
    """The agent behind `use`, built with `params`: a `Chattable` class or instance, any class with `chat`, or a function."""
    found = _find(use)
    if isinstance(found, Chattable):
        if params:
            raise LoadError(f"{use} is an instance and takes no parameters: remove {', '.join(params)}")
        return found
    if inspect.isclass(found):
        if not callable(getattr(found, "chat", None)):
            raise LoadError(f"{use} has no method `chat`")
        agent = _built(use, found, params)
        return agent if isinstance(agent, Chattable) else _adopted(agent, use)
    if callable(found):
        return Function(found, params, use)
    raise LoadError(f"{use} is a {type(found).__name__}: an agent is a class with `chat`, or a function of a message")


def made(use: str) -> Any:
    """An object of the class `use`, which is built without parameters."""
    return _built(use, _find(use), {})


class Function(Chattable):
    """An agent made of one function: `message` alone or `message, ctx`; further parameters come from the config.

    Law: the second parameter is the context if it is called `ctx`, or has neither a default nor a value in the config.
    """

    def __init__(self, function: Callable[..., Reply], params: dict[str, Any], use: str = "") -> None:
        use = use or getattr(function, "__qualname__", type(function).__qualname__)
        takes = _parameters(use, function)
        if not takes or takes[0].kind in (Parameter.KEYWORD_ONLY, Parameter.VAR_KEYWORD):
            raise LoadError(f"{use} takes no message: an agent is a function of `message`, or of `message, ctx`")
        self.function = function
        self.description = (inspect.getdoc(function) or "").partition("\n")[0]
        self.takes_context = len(takes) > 1 and _is_context(takes[1], params)
        self.plain = not (inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function))
        self.params = _fitted(use, takes[2 if self.takes_context else 1 :], params)

    def chat(self, message: Message, ctx: Context | None = None) -> Reply:
        """The function's own answer."""
        return self.function(message, ctx, **self.params) if self.takes_context else self.function(message, **self.params)


def _adopted(agent: Any, use: str) -> Chattable:
    """An object with `chat` that is no `Chattable`, with what else it has of one."""
    adopted = Function(agent.chat, {}, f"{use}.chat")
    for name in ("description", "supports", "start", "stop"):
        if hasattr(agent, name):
            setattr(adopted, name, getattr(agent, name))
    return adopted


def _find(use: str) -> Any:
    if ":" not in use:
        found = [point for point in entry_points(group=GROUP) if point.name == use]
        if not found:
            names = sorted(point.name for point in entry_points(group=GROUP))
            known = f"installed: {', '.join(names)}" if names else "none is installed"
            raise LoadError(f"no entry point `{use}` in the group {GROUP} ({known}); a dotted path has the form pkg.module:name")
        return _imported(use, found[0].load)
    path, _, name = use.partition(":")
    module = _imported(path, lambda: importlib.import_module(path))
    try:
        return attrgetter(name)(module)
    except AttributeError:
        raise LoadError(f"the module {path} has no `{name}`") from None


def _imported(what: str, load_: Callable[[], Any]) -> Any:
    try:
        return load_()
    except ModuleNotFoundError as error:
        raise LoadError(f"cannot import {what}: no module named {error.name!r} (is its folder on PYTHONPATH?)") from error
    except (Exception, SystemExit) as error:
        raise LoadError(f"importing {what} failed: {type(error).__name__}: {error}") from error


def _built(use: str, cls: Callable[..., Any], params: dict[str, Any]) -> Any:
    params = _fitted(use, _parameters(use, cls), params)
    try:
        return cls(**params)
    except Exception as error:
        raise LoadError(f"{use} could not be built: {type(error).__name__}: {error}") from error


def _parameters(use: str, function: Callable[..., Any]) -> list[Parameter]:
    try:
        try:
            signature = inspect.signature(function, eval_str=True)
        except (NameError, AttributeError, SyntaxError, TypeError):  # of an annotation; it is only for readers then
            signature = inspect.signature(function)
        return list(signature.parameters.values())
    except ValueError:
        raise LoadError(f"{use} is built into Python and does not say what it takes: wrap it in a function") from None


def _is_context(second: Parameter, params: dict[str, Any]) -> bool:
    if second.kind in (Parameter.KEYWORD_ONLY, Parameter.VAR_KEYWORD, Parameter.VAR_POSITIONAL) or second.name in params:
        return False
    return second.name == "ctx" or second.default is Parameter.empty


def _fitted(use: str, takes: list[Parameter], params: dict[str, Any]) -> dict[str, Any]:
    """The parameters as the code takes them; refuses unknown and missing ones and plain types that are wrong, by name."""
    names = [p.name for p in takes if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
    if not any(p.kind is p.VAR_KEYWORD for p in takes) and (unknown := [name for name in params if name not in names]):
        raise LoadError(f"{use} takes no parameter {', '.join(unknown)} (it takes: {', '.join(names) or 'none'})")
    if missing := [p.name for p in takes if p.default is p.empty and p.name in names and p.name not in params]:
        raise LoadError(f"{use} needs {', '.join(missing)}")
    kinds = {p.name: p.annotation for p in takes if p.name in names}
    return {name: _as_plain(use, name, kinds.get(name), value) for name, value in params.items()}


def _as_plain(use: str, name: str, kind: Any, value: Any) -> Any:
    """A value of a config as the type that the code annotates, if that is a plain one; text may spell a number."""
    if not _is_plain(kind):
        return value
    try:
        try:
            return msgspec.convert(value, kind)
        except msgspec.ValidationError:
            if not isinstance(value, str):
                raise
            return msgspec.convert(value, kind, strict=False)  # `${ROUNDS}` is text, whatever it holds
    except msgspec.ValidationError as error:
        raise LoadError(f"{use}: {explain(error, name).message}") from None
    except TypeError:  # of types that cannot be told apart
        return value


def _is_plain(kind: Any) -> bool:
    if get_origin(kind) is Literal:
        return True
    inner = get_args(kind)
    return (get_origin(kind) or kind) in PLAIN and all(one is Ellipsis or _is_plain(one) for one in inner)
