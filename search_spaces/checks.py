"""The rules that a space must keep before any trial starts."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from search_spaces.domains import Choice, Conditions, Domain, Integer, LogUniform, Uniform
from settings.flat import unknown_key
from settings.schema import Leaf, SettingsError, Value, conform

if TYPE_CHECKING:
    from search_spaces.space import Space


def check_space(
    space: Space,
    leaves: Mapping[str, Leaf],
    overrides: Collection[str] = (),
    *,
    prepare_reads: Collection[str] = (),
    enabled_terms: Collection[str] = (),
    weights: str = "loss",
) -> Space:
    """The space with every option in its setting's own type.

    Args:
        leaves: of the system's settings, by dotted key.
        overrides: keys that the command line fixes.
        prepare_reads: keys (patterns of fnmatch) that the shared preparation reads.
        enabled_terms: loss terms whose weight and schedule are not zero in the sweep's settings;
            with any, the anchor rule is checked.
        weights: settings key of the node that holds the terms.

    Raises:
        SettingsError: an unknown key (the nearest three are named), a domain that leaves the legal
            range, a key that an override or the space itself also fixes, a condition that cannot
            hold, or no anchor.
    """
    typed: dict[str, Domain] = {}
    for key, domain in space.domains.items():
        if key not in leaves:
            raise unknown_key(key, leaves)
        _check_owner(key, space, overrides, prepare_reads)
        typed[key] = _legal(key, domain, leaves[key])
    domains: dict[str, Domain] = {
        key: dataclasses.replace(domain, when=_legal_conditions(key, domain, typed, leaves))
        for key, domain in typed.items()
    }
    fixed: dict[str, Value] = {}
    for key, value in space.fixed.items():
        if key not in leaves:
            raise unknown_key(key, leaves)
        fixed[key] = conform(key, leaves[key], value)
    check_anchor(space, enabled_terms, weights)
    return dataclasses.replace(space, domains=domains, fixed=fixed)


def check_anchor(space: Space, enabled_terms: Collection[str], weights: str = "loss") -> None:
    """Refuses a search over weights that leaves no term's weight fixed.

    Adam divides the gradient by its own size, so a common factor on all weights changes next to
    nothing: only ratios to an anchor are searchable. A term that a trial may switch off is no
    anchor.
    """
    terms = list(enabled_terms)
    if not any(f"{weights}.{term}.weight" in space.domains for term in terms):
        return
    lasting = [term for term in terms if f"{weights}.{term}.enabled" not in space.domains]
    if any(f"{weights}.{term}.weight" not in space.domains for term in lasting):
        return
    anchor = (lasting or terms)[0]
    remedy = f"take {weights}.{anchor}.weight out of the space and leave it at 1"
    if not lasting:
        remedy += f", and take {weights}.{anchor}.enabled out as well"
    raise SettingsError(
        f"space {space.name!r} leaves no anchor: it may change the weight of every enabled term "
        f"({', '.join(terms)}). Under Adam only the ratios of weights matter, so one term must "
        f"stay fixed: {remedy}."
    )


def _check_owner(
    key: str, space: Space, overrides: Collection[str], prepare_reads: Collection[str]
) -> None:
    if key in overrides:
        raise SettingsError(
            f"{key} is searched by the space {space.name!r} and also fixed by an override. "
            "Drop the override, or use a space without this key."
        )
    if key in space.fixed:
        raise SettingsError(
            f"space {space.name!r} both searches and fixes {key}. Keep one of them."
        )
    pattern = next((pattern for pattern in prepare_reads if fnmatchcase(key, pattern)), None)
    if pattern is not None:
        raise SettingsError(
            f"{key} cannot be searched: the preparation that all trials share reads {pattern}. "
            f"Fix it with {key}=VALUE, one sweep for each value."
        )


def _legal(key: str, domain: Domain, leaf: Leaf) -> Domain:
    if not isinstance(domain, Choice):
        _check_kind(key, domain, leaf)
    try:
        ends = tuple(conform(key, leaf, end) for end in domain.ends)
    except SettingsError as error:
        raise SettingsError(f"the domain of {key} leaves the legal range: {error}") from None
    return dataclasses.replace(domain, options=ends) if isinstance(domain, Choice) else domain


def _check_kind(key: str, domain: Uniform | LogUniform | Integer, leaf: Leaf) -> None:
    if leaf.is_tuple or leaf.type not in (int, float) or leaf.choices is not None:
        raise SettingsError(
            f"{key} holds {leaf.type_text} ({leaf.range_text}): search it with `choice`."
        )
    if leaf.type is int and isinstance(domain, (Uniform, LogUniform)):
        raise SettingsError(
            f"{key} holds whole numbers: use `integer: [{domain.low:g}, {domain.high:g}]`, "
            f"not {domain.kind}."
        )
    if leaf.type is float and isinstance(domain, Integer):
        raise SettingsError(
            f"{key} holds real numbers: use `uniform: [{domain.low}, {domain.high}], "
            f"step: {domain.step}` or `choice`, not integer."
        )


def _legal_conditions(
    key: str, domain: Domain, domains: Mapping[str, Domain], leaves: Mapping[str, Leaf]
) -> Conditions:
    conditions = {}
    for other, allowed in domain.when.items():
        if other not in leaves:
            raise SettingsError(
                f"{key} is conditional on a key that does not exist: {unknown_key(other, leaves)}"
            )
        typed = tuple(conform(other, leaves[other], value) for value in allowed)
        parent = domains.get(other)
        if isinstance(parent, (Uniform, LogUniform)):
            raise SettingsError(
                f"{key} is conditional on {other}, which is continuous: it never takes "
                f"exactly {typed!r}. Condition on a choice or an integer."
            )
        if parent is not None and not any(parent.contains(value) for value in typed):
            raise SettingsError(
                f"{key} can never be active: it needs {other} in {typed!r}, "
                "and the space never draws that."
            )
        conditions[other] = typed
    return conditions
