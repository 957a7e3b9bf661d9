"""Finds the code behind a name: a dotted path `pkg.mod:attr`, or an entry point of the group `chattable.agents`."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any

from chattable.agents.chat import Message
from chattable.agents.chattable import Chattable, Context, Reply

GROUP = "chattable.agents"


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
        agent = _call(use, found, params)
        return agent if isinstance(agent, Chattable) else Function(agent.chat, {})
    if callable(found):
        _check(use, found, params, skip=1)
        return Function(found, params)
    raise LoadError(f"{use} is a {type(found).__name__}: an agent is a class with `chat`, or a function of a message")


class Function(Chattable):
    """An agent made of one function: `message` alone or `message, ctx`; further parameters come from the config."""

    def __init__(self, function: Callable[..., Reply], params: dict[str, Any]) -> None:
        self.function = function
        self.params = params
        self.description = (inspect.getdoc(function) or "").partition("\n")[0]
        names = [p.name for p in inspect.signature(function).parameters.values() if p.kind is not p.KEYWORD_ONLY]
        free = [name for name in names if name not in params]
        self.takes_context = len(free) > 1
        self.plain = not (inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function))

    def chat(self, message: Message, ctx: Context | None = None) -> Reply:
        """The function's own answer."""
        return self.function(message, ctx, **self.params) if self.takes_context else self.function(message, **self.params)


def _find(use: str) -> Any:
    if ":" not in use:
        found = [point for point in entry_points(group=GROUP) if point.name == use]
        if not found:
            names = sorted(point.name for point in entry_points(group=GROUP))
            known = f"installed: {', '.join(names)}" if names else "none is installed"
            raise LoadError(f"no entry point `{use}` in the group {GROUP} ({known}); a dotted path has the form pkg.module:name")
        return found[0].load()
    path, _, name = use.partition(":")
    try:
        found_module = importlib.import_module(path)
    except ModuleNotFoundError as error:
        raise LoadError(f"cannot import {path}: no module named {error.name!r} (is its folder on PYTHONPATH?)") from error
    except Exception as error:
        raise LoadError(f"importing {path} failed: {type(error).__name__}: {error}") from error
    try:
        return getattr(found_module, name)
    except AttributeError:
        raise LoadError(f"the module {path} has no `{name}`") from None


def _call(use: str, cls: Callable[..., Any], params: dict[str, Any]) -> Any:
    _check(use, cls, params)
    try:
        return cls(**params)
    except Exception as error:
        raise LoadError(f"{use} could not be built: {type(error).__name__}: {error}") from error


def _check(use: str, function: Callable[..., Any], params: dict[str, Any], skip: int = 0) -> None:
    """Refuses parameters that the code does not take, and missing ones, by name."""
    signature = inspect.signature(function)
    takes = list(signature.parameters.values())[skip:]
    names = [p.name for p in takes if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
    if not any(p.kind is p.VAR_KEYWORD for p in takes) and (unknown := [name for name in params if name not in names]):
        raise LoadError(f"{use} takes no parameter {', '.join(unknown)} (it takes: {', '.join(names) or 'none'})")
    if not skip and (missing := [p.name for p in takes if p.default is p.empty and p.name in names and p.name not in params]):
        raise LoadError(f"{use} needs {', '.join(missing)}")
