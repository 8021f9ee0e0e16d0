"""Orders from abroad go to a queue of their own, which is made when it is needed."""

from typing import Any


def by_country(name: str, args: Any, kwargs: Any, options: Any, task: Any = None, **_: Any) -> dict[str, str] | None:
    country = (kwargs or {}).get("country")
    return {"queue": f"orders_{country}"} if country else None
