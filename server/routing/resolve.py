"""Which model serves a request."""

import re
from collections.abc import Callable
from fnmatch import translate

from server.config.schema import Config, Rule
from server.errors import ModelNotFound
from server.routing.catalog import AUTO_NAMES, is_glob, names, quoted, unknown_model


class Routing:
    """The rules of one config, prepared so that a known name costs two look-ups."""

    def __init__(self, config: Config) -> None:
        self._names = names(config)
        self._auto = config.auto
        self._models = config.models
        self._aliases = {a: use for a, use in config.aliases.items() if not is_glob(a)}
        globs = {alias: use for alias, use in config.aliases.items() if is_glob(alias)}
        # One group per alias, in file order: the number of the group that matched is its place.
        self._globs = re.compile("|".join(f"({translate(glob)})" for glob in globs) or r"(?!)")
        self._glob_uses = tuple(globs.values())

    def resolve(
        self,
        name: str,
        *,
        tool: str | None,
        preset_model: str | None,
        input_tokens_estimate: Callable[[], int],
    ) -> str:
        """Find the logical model that serves `name` for a caller of `tool`.

        `preset_model` is what the tool's preset says `auto` is. The estimate is asked for only
        if a rule needs it, and once.

        Raises:
            ModelNotFound: no model, alias or rule covers the name.
        """
        model: str | None = name
        if name not in self._models:
            model = None if name in AUTO_NAMES else self._aliased(name)
            if model is None and _means_auto(name, tool):
                model = self._auto_model(name, tool, preset_model, input_tokens_estimate)
        if model is None:
            raise unknown_model(name, self._names)
        return model

    def require_auto(self, preset_model: str | None) -> None:
        """Check what a preset says `auto` is; raises ModelNotFound where nothing goes by it."""
        if preset_model is not None and preset_model not in AUTO_NAMES:
            self._named(preset_model)

    def _named(self, name: str) -> str:
        model = name if name in self._models else self._aliased(name)
        if model is None:
            raise unknown_model(name, self._names)
        return model

    def _aliased(self, name: str) -> str | None:
        """Follow an alias: a plain one first, then the first glob of the file that fits."""
        plain = self._aliases.get(name)
        if plain is not None:
            return plain
        match = self._globs.match(name)
        return None if match is None else self._glob_uses[(match.lastindex or 1) - 1]

    def _auto_model(
        self, name: str, tool: str | None, preset_model: str | None, estimate: Callable[[], int]
    ) -> str:
        if preset_model is not None and preset_model not in AUTO_NAMES:
            return self._named(preset_model)
        rule = _first_match(self._auto.rules, tool, estimate)
        chosen = self._auto.default if rule is None else rule.use
        if chosen is None:
            raise ModelNotFound(
                f"Nothing serves {quoted(name)}: this gateway has no `auto.default`. "
                "GET /v1/models lists what there is.",
                param="model",
            )
        return chosen


def _means_auto(name: str, tool: str | None) -> bool:
    # Coding tools ask for their vendor's names, whatever the team calls its models.
    return name in AUTO_NAMES or (tool is not None and name.startswith("claude-"))


def _first_match(
    rules: tuple[Rule, ...], tool: str | None, estimate: Callable[[], int]
) -> Rule | None:
    tokens: int | None = None
    for rule in rules:
        if rule.when.tool not in (None, tool):
            continue
        if rule.when.max_input_tokens is None:
            return rule
        tokens = estimate() if tokens is None else tokens
        if tokens <= rule.when.max_input_tokens:
            return rule
    return None
