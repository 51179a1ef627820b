"""How Prefect calls what belongs to a domain."""

FLOW = "produce"


def domain_tag(name: str) -> str:
    """Tag of a domain's flow runs and of its deployment."""
    return f"domain:{name}"


def full_name(name: str) -> str:
    """A domain's deployment."""
    return f"{FLOW}/{name}"
