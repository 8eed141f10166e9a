"""Similarities by their type strings: `token-set:threshold=0.8`.

One of this project is a module beside this one and a line in `_BUILT_IN`. One of a third party is an entry point in the
group `dynasor.similarities`, named like its type string, that loads to a class like those; both the gateway and the
evaluator must have it.
"""

from functools import lru_cache
from importlib.metadata import entry_points

from dynasor_serve.certaindex.rules.parameters import default_type_string, names_known, parameters_of, read_settings
from dynasor_serve.certaindex.rules.rule import InvalidRule
from dynasor_serve.certaindex.similarities.edit_ratio import EditRatio
from dynasor_serve.certaindex.similarities.similarity import Similarity
from dynasor_serve.certaindex.similarities.token_set import TokenSet

ENTRY_POINT_GROUP = "dynasor.similarities"
DEFAULT = "token-set"
MAX_TYPE_STRING_CHARACTERS = 256

_BUILT_IN: tuple[type[Similarity], ...] = (TokenSet, EditRatio)


@lru_cache(maxsize=64)
def parse_similarity(type_string: str) -> Similarity:
    """Return the similarity of a type string; the default one if it is empty.

    Raises:
        InvalidRule: unknown name or parameter, a value out of bounds, or a malformed string.
    """
    if len(type_string) > MAX_TYPE_STRING_CHARACTERS:
        problem = f"the type string has {len(type_string)} characters"
        raise InvalidRule("similarity", problem, f"it may have {MAX_TYPE_STRING_CHARACTERS}")
    name, colon, settings = (type_string.strip() or DEFAULT).partition(":")
    chosen = _class_of(name.strip())
    parameters = parameters_of(chosen)
    example = default_type_string(chosen.name, parameters)
    return chosen(**(read_settings(settings, chosen.name, parameters, example) if colon else {}))


def similarity_names() -> tuple[str, ...]:
    """Return the names that can be parsed: this project's, then those of installed packages."""
    return (*(each.name for each in _BUILT_IN), *sorted(entry_points(group=ENTRY_POINT_GROUP).names))


def _class_of(name: str) -> type[Similarity]:
    for each in _BUILT_IN:
        if each.name == name:
            return each
    offered = list(entry_points(group=ENTRY_POINT_GROUP, name=name))
    if len(offered) != 1:
        problem = f"{name!r} is offered twice" if offered else f"there is no similarity {name!r:.60}"
        raise InvalidRule("similarity", problem, names_known("known", name, list(similarity_names())))
    try:
        loaded = offered[0].load()
        parameters_of(loaded)
    except Exception as error:  # whatever a third party's import raises
        remedy = f"mend or remove the package that offers it ({offered[0].value})"
        raise InvalidRule("similarity", f"{name!r} cannot be loaded: {error}", remedy) from error
    if not (isinstance(loaded, type) and getattr(loaded, "name", None) == name and hasattr(loaded, "says_same")):
        remedy = f"mend or remove the package that offers it ({offered[0].value})"
        raise InvalidRule("similarity", f"{name!r} is not a similarity class of that name", remedy)
    return loaded
