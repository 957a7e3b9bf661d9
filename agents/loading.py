"""Finds an agent's code by its name.

The name is a dotted path, `pkg.mod:attr`, or an entry point of the group `chattable.agents`.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import sys
import sysconfig
from collections.abc import Callable
from importlib.metadata import entry_points
from inspect import Parameter
from operator import attrgetter
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from chattable.agents.chat import Message
from chattable.agents.chattable import AgentResult, Chattable, Context
from chattable.agents.params import check_accepts
from chattable.agents.plain import NotPlain, as_plain

ENTRY_POINTS = "chattable.agents"


class LoadError(Exception):
    """An agent that cannot be built; the message says what to change."""


def load(use: str, params: dict[str, Any]) -> Chattable:
    """The agent behind `use`, built with `params`.

    `use` names a `Chattable` class or instance, any class with `chat`, or a function.
    """
    agent = _agent(use, _find(use), params)
    if why := check_accepts(agent.accepts):
        raise LoadError(f"{use}: {why}")
    return agent


def _agent(use: str, found: Any, params: dict[str, Any]) -> Chattable:
    if why := _no_agent(found):
        raise LoadError(f"{use} {why}")
    if isinstance(found, Chattable):
        if params:
            raise LoadError(
                f"{use} is an instance and takes no parameters: remove {', '.join(params)}"
            )
        return found
    if inspect.isclass(found):
        if not callable(getattr(found, "chat", None)):
            raise LoadError(f"{use} has no method `chat`")
        agent = _built(use, found, params)
        return agent if isinstance(agent, Chattable) else _adopted(agent, use)
    return Function(found, params, use)


def made(use: str) -> Any:
    """An object of the class `use`, which is built without parameters."""
    return _built(use, _find(use), {})


class Function(Chattable):
    """An agent made of one function, of `message` or of `message, ctx`.

    Its further parameters come from the config.

    Law: the second parameter is the context if it is called `ctx`, or has neither a default nor a
    value in the config.
    """

    def __init__(
        self, function: Callable[..., AgentResult], params: dict[str, Any], use: str = ""
    ) -> None:
        use = use or getattr(function, "__qualname__", type(function).__qualname__)
        takes = _parameters(use, function)
        _check_message(use, function, takes)
        self.function = function
        self.description = (inspect.getdoc(function) or "").partition("\n")[0]
        self.takes_context = len(takes) > 1 and _is_context(takes[1], params)
        self.blocking = not (
            inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)
        )
        given = takes[: 2 if self.takes_context else 1]
        if taken := [p.name for p in given if p.name in params]:
            raise LoadError(f"{use} is given `{taken[0]}` with every turn: it is no parameter")
        self.params = _fitted(use, takes[len(given) :], params)

    def chat(self, message: Message, ctx: Context | None = None) -> AgentResult:
        """The function's own answer."""
        return (
            self.function(message, ctx, **self.params)
            if self.takes_context
            else self.function(message, **self.params)
        )


def _no_agent(found: Any) -> str:
    """Why what was found cannot be an agent, whatever its parameters; empty where it may be one.

    A command of the operating system takes one text as well, and it would run what users say.
    """
    if isinstance(found, Chattable):
        return ""
    if not callable(found):
        kind = type(found).__name__
        return f"is a {kind}: an agent is a class with `chat`, or a function of a message"
    code: Any = inspect.unwrap(found.func if isinstance(found, functools.partial) else found)
    if _of_python(getattr(code, "__module__", None) or type(code).__module__):
        return "is a part of Python itself: an agent is your own code, which may use it"
    written = inspect.isclass(code) or (inspect.isroutine(code) and hasattr(code, "__code__"))
    if not (written or hasattr(type(code).__call__, "__code__")):
        return "is not written in Python: wrap it in a function of `message`, or of `message, ctx`"
    return ""


def _of_python(module: str) -> bool:
    """Whether this is the interpreter's own module, not somebody's file of the same name."""
    if module.partition(".")[0] not in sys.stdlib_module_names:
        return False
    file = getattr(sys.modules.get(module), "__file__", None)
    return file is None or Path(file).is_relative_to(sysconfig.get_path("stdlib"))


def _adopted(agent: Any, use: str) -> Chattable:
    """An object with `chat` that is no `Chattable`, with what else it has of one."""
    adopted = Function(agent.chat, {}, f"{use}.chat")
    for name in ("description", "supports", "accepts", "start", "stop"):
        if hasattr(agent, name):
            setattr(adopted, name, getattr(agent, name))
    return adopted


def _find(use: str) -> Any:
    if ":" not in use:
        found = [point for point in entry_points(group=ENTRY_POINTS) if point.name == use]
        if not found:
            names = sorted(point.name for point in entry_points(group=ENTRY_POINTS))
            known = f"installed: {', '.join(names)}" if names else "none is installed"
            raise LoadError(
                f"no entry point `{use}` in the group {ENTRY_POINTS} ({known}); "
                "a dotted path has the form pkg.module:name"
            )
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
        raise LoadError(
            f"cannot import {what}: no module named {error.name!r} (is its folder on PYTHONPATH?)"
        ) from error
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
        except (NameError, AttributeError, SyntaxError, TypeError):  # annotated for readers only
            signature = inspect.signature(function)
        return list(signature.parameters.values())
    except ValueError:
        raise LoadError(
            f"{use} is built into Python and does not say what it takes: wrap it in a function"
        ) from None


def _check_message(use: str, function: Callable[..., Any], takes: list[Parameter]) -> None:
    """Refuses a function whose first parameter cannot be the message."""
    if not takes or takes[0].kind in (Parameter.KEYWORD_ONLY, Parameter.VAR_KEYWORD):
        raise LoadError(
            f"{use} takes no message: an agent is a function of `message`, or of `message, ctx`"
        )
    if not _takes_message(function, takes[0]):
        why = f"`{takes[0].name}` is none by its annotation; annotate it `Message`"
        raise LoadError(f"{use} does not take a message: {why}")


def _takes_message(function: Callable[..., Any], first: Parameter) -> bool:
    """Whether a first parameter may be a message; yes where its annotation does not tell."""
    try:
        hint = get_type_hints(function).get(first.name, Any)
    except Exception:  # a name that only type checkers know
        return True
    arms = get_args(hint) if get_origin(hint) in (Union, UnionType) else [hint]
    return any(arm is Any or not inspect.isclass(arm) or issubclass(Message, arm) for arm in arms)


def _is_context(second: Parameter, params: dict[str, Any]) -> bool:
    if (
        second.kind in (Parameter.KEYWORD_ONLY, Parameter.VAR_KEYWORD, Parameter.VAR_POSITIONAL)
        or second.name in params
    ):
        return False
    return second.name == "ctx" or second.default is Parameter.empty


def _fitted(use: str, takes: list[Parameter], params: dict[str, Any]) -> dict[str, Any]:
    """The parameters as the code takes them; refuses unknown, missing and mistyped ones."""
    named = {p.name: p for p in takes if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)}
    if not any(p.kind is p.VAR_KEYWORD for p in takes):
        _refuse_unknown(use, named, params)
    _refuse_missing(use, named, params)
    kinds = {name: p.annotation for name, p in named.items()}
    try:
        return {name: as_plain(name, value, kinds.get(name)) for name, value in params.items()}
    except NotPlain as error:
        raise LoadError(f"{use}: {error}") from None


def _refuse_unknown(use: str, named: dict[str, Parameter], params: dict[str, Any]) -> None:
    if unknown := [name for name in params if name not in named]:
        known = ", ".join(named) or "none"
        raise LoadError(f"{use} takes no parameter {', '.join(unknown)} (it takes: {known})")


def _refuse_missing(use: str, named: dict[str, Parameter], params: dict[str, Any]) -> None:
    needed = [name for name, p in named.items() if p.default is p.empty]
    if missing := [name for name in needed if name not in params]:
        raise LoadError(f"{use} needs {', '.join(missing)}")
