"""The catalog that is served: swapped whole, for one that has started."""

import pytest

from chattable.adapters.http_client import HttpClient
from chattable.adapters.services import VENDORS
from chattable.agents.errors import ModelNotFound
from chattable.proxy.catalog.catalog import Catalog, CatalogHolder, build
from chattable.proxy.config.reader import parse
from chattable.proxy.identity.auth import ADMIN


def catalog(*names: str) -> Catalog:
    agents = "".join(f'  {name}: {{use: "chattable.agents.echo:Echo"}}\n' for name in names)
    config = parse(f"agents:\n{agents}".encode(), "config.yaml", {}, VENDORS)
    return build(config, HttpClient())


async def test_a_swap_changes_all_names_at_once() -> None:
    holder = CatalogHolder(first := catalog("a", "b"))
    await holder.start()
    kept = holder.current.find("a", ADMIN)
    assert await holder.swap(catalog("b", "c")) is first
    assert sorted(entry.name for entry in holder.current.visible(ADMIN)) == ["b", "c"]
    with pytest.raises(ModelNotFound):
        holder.current.find("a", ADMIN)
    assert kept.name == "a"  # a turn that found it goes on with it
    await first.stop()
    await holder.stop()


async def test_one_that_does_not_start_changes_nothing() -> None:
    holder, second = CatalogHolder(first := catalog("a")), catalog("b")
    await holder.start()

    async def fails() -> None:
        raise OSError("no port")

    second.start = fails  # type: ignore[method-assign]
    with pytest.raises(OSError, match="no port"):
        await holder.swap(second)
    assert holder.current is first
    await holder.stop()
