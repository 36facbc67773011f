"""Recipes: from YAML and overrides to one plain, checked dataclass.

A recipe is a YAML file in `apps/<domain>/recipes`; shared groups (trainer, optim, logger) stand in
`core/run/recipes`. Composition is Hydra's. The schema is the app's dataclass `Recipe`, registered as `schema`,
so that types are checked when values are merged. Three layers catch a mistake, each in one line:

1. Hydra composes                    -> unknown group or key, wrong type, bad syntax;
2. plain container + schema          -> keys smuggled in by `+key=value` (merging a DictConfig keeps them silently);
3. `setting(...)` bounds and choices -> values out of range.

Beyond this module only plain dataclass instances travel, never a DictConfig.
"""

from __future__ import annotations

import dataclasses
import importlib
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.errors import QuintetError, UsageError

if TYPE_CHECKING:
    from omegaconf import DictConfig

__all__ = [
    "LoggerConfig",
    "OptimConfig",
    "TrainerConfig",
    "compose",
    "entries",
    "filled",
    "instance",
    "load_recipe",
    "locate",
    "recipe_folder",
    "recipes",
    "register",
    "quoted",
    "searchpath",
    "setting",
    "summaries",
    "variants",
]

SHARED = Path(__file__).parent / "recipes"


def setting(
    default: Any, *, low: float | None = None, high: float | None = None, choices: Sequence[Any] | None = None,
    size: int | None = None, below: float | None = None,
) -> Any:  # fmt: skip
    """Declare a dataclass field with a default and the values that are valid for it.

    Args:
        default: the default; a list, dict or tuple is copied for each instance.
        low, high: inclusive bounds; for a list they hold for each entry.
        choices: the valid values.
        size: how many entries a list has.
        below: an upper bound that is not reached.
    """
    rule = {"low": low, "high": high, "choices": choices, "size": size, "below": below}
    if isinstance(default, list | dict):
        return dataclasses.field(default_factory=lambda: default.copy(), metadata=rule)
    return dataclasses.field(default=default, metadata=rule)


@dataclasses.dataclass
class TrainerConfig:
    """How the loop runs.

    `accumulate` micro-batches make one optimiser step, so the effective batch grows with it. `ema` is the decay of
    the averaged weights (0 turns it off). `validate_every`, `checkpoint_every` and `log_every` count steps (0: only
    at the end). `patience` counts validations without a new best loss (0: never stop early). `max_minutes` ends a
    run by the clock; the number of steps is then the machine's, and two such runs are not bit-identical.
    """

    steps: int = setting(1000, low=1)
    seed: int = setting(0, low=0)
    accelerator: str = setting("auto", choices=("auto", "cpu", "gpu", "cuda", "mps"))
    devices: int = setting(1, low=1)
    strategy: str = setting("auto", choices=("auto", "ddp", "fsdp"))
    precision: str = setting("32-true", choices=("32-true", "64-true", "bf16-mixed", "bf16-true"))
    threads: int = setting(0, low=0)
    accumulate: int = setting(1, low=1)
    clip: float = setting(1.0, low=0)
    ema: float = setting(0.999, low=0, high=1)
    validate_every: int = setting(200, low=0)
    checkpoint_every: int = setting(200, low=0)
    keep: int = setting(2, low=1)
    log_every: int = setting(20, low=1)
    patience: int = setting(0, low=0)
    prefetch: int = setting(1, low=0)
    max_minutes: float = setting(0.0, low=0)


@dataclasses.dataclass
class OptimConfig:
    """The optimiser and its rate: linear warm-up over `warmup` steps, then `schedule` down to `final` times `lr`.

    `eps` is AdamW's: where gradients are not well above it, steps shrink and nothing is learned.
    """

    name: str = setting("adamw", choices=("adamw", "sgd"))
    lr: float = setting(3e-4, low=0)
    weight_decay: float = setting(0.01, low=0)
    betas: list[float] = setting([0.9, 0.99], low=0, below=1, size=2)
    eps: float = setting(1e-8, low=0)
    warmup: int = setting(100, low=0)
    schedule: str = setting("cosine", choices=("cosine", "constant"))
    final: float = setting(0.1, low=0, high=1)


@dataclasses.dataclass
class LoggerConfig:
    """Where figures go besides the CSV files, which are always written."""

    name: str = setting("csv", choices=("csv", "tensorboard"))


def locate(path: str) -> Any:
    """Import the object that a dotted path `package.module:name` names."""
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)


def recipe_folder(domain: str) -> Path:
    """Return the folder of an app's recipes."""
    import importlib.util

    spec = importlib.util.find_spec(f"apps.{domain}")
    if spec is None or not spec.submodule_search_locations:
        raise UsageError("no such app", field="domain", value=domain)
    return Path(next(iter(spec.submodule_search_locations))) / "recipes"


def recipes(domain: str) -> list[str]:
    """Return the names of an app's recipes; `base` is their common part and not one of them."""
    return sorted(p.stem for p in recipe_folder(domain).glob("*.yaml") if p.stem != "base")


def summaries(domain: str) -> dict[str, str]:
    """Return each recipe of an app with the comment on its first line."""
    folder, found = recipe_folder(domain), {}
    for name in recipes(domain):
        first = (folder / f"{name}.yaml").read_text().partition("\n")[0]
        found[name] = first.lstrip("# ") if first.startswith("#") else ""
    return found


def register(schema: type | str) -> type:
    """Make an app's dataclass known to Hydra under the name that `base.yaml` lists first: `schema`."""
    from hydra.core.config_store import ConfigStore

    kind = locate(schema) if isinstance(schema, str) else schema
    ConfigStore.instance().store(name="schema", node=kind)
    return kind


def place(domain: str, name: str) -> tuple[Path, str]:
    """Return the folder and the name of a recipe: one of the app's, or a YAML file of the user's."""
    path = Path(name)
    if path.suffix in {".yaml", ".yml"}:
        if not path.is_file():
            raise UsageError("no such file", field="recipe", value=name)
        if not any(line.partition("#")[0].strip() for line in path.read_bytes().decode(errors="replace").splitlines()):
            raise UsageError("is empty", field="recipe", value=name, hint="begin with defaults: [toy, _self_]")
        return path.resolve().parent, path.stem
    if name not in (known := recipes(domain)):
        raise UsageError(f"not found in apps/{domain}/recipes", field="recipe", value=name, choices=known)
    return recipe_folder(domain), name


def searchpath(domain: str) -> str:
    """Return the override that lets Hydra find an app's recipes and the shared groups."""
    return f"hydra.searchpath=[{quoted(f'file://{recipe_folder(domain)}')},{quoted(f'file://{SHARED}')}]"


def quoted(text: object) -> str:
    """Return a text as a quoted value of Hydra's overrides."""
    return "'" + str(text).replace("'", "\\'") + "'"


def compose(domain: str, name: str, overrides: Sequence[str], schema: type | str) -> DictConfig:
    """Compose a recipe with Hydra; a mistake becomes a `UsageError` that names the field and the nearest choice."""
    import hydra
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    folder, stem = place(domain, name)
    register(schema)
    try:
        with hydra.initialize_config_dir(str(folder), version_base=None):
            return hydra.compose(stem, overrides=[searchpath(domain), *entries(overrides, schema)])
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        if isinstance(error, UnicodeDecodeError):
            raise UsageError("holds bytes that are no UTF-8", field="recipe", value=name) from None
        raise explain(error, overrides, schema) from None
    except RecursionError:
        raise UsageError("its defaults name it again", field="recipe", value=name) from None
    except YAMLError as error:
        where = getattr(error, "problem_mark", None)
        line = f"line {where.line + 1}: " if where else ""
        problem = getattr(error, "problem", None) or getattr(error, "reason", "no text")
        raise UsageError(f"cannot be read as YAML ({line}{problem})", field="recipe", value=name) from None


def instance(config: DictConfig, schema: type | str) -> Any:
    """Turn a composed config into a checked instance of the schema."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    kind = locate(schema) if isinstance(schema, str) else schema
    try:
        for path in sorted(OmegaConf.missing_keys(config)):
            raise UsageError("has no default and was not given", field=path, hint=f"add {path}=VALUE")
        plain = OmegaConf.to_container(config, resolve=True)
        recipe = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(kind), plain))
    except OmegaConfBaseException as error:
        raise explain(error, (), kind) from None
    for path, rule, value in settings(recipe):
        check(path, rule, value)
    return recipe


def load_recipe(domain: str, name: str, overrides: Sequence[str] = (), schema: type | str | None = None) -> Any:
    """Return a recipe of an app as an instance of its schema.

    Args:
        domain: the app.
        name: a recipe of the app, or a path to a YAML file.
        overrides: Hydra overrides, `key=value`.
        schema: the dataclass or its dotted path; by default `apps.<domain>.model:Recipe`.
    Raises:
        UsageError: names the field, the value and the nearest valid choice.
    """
    kind = register(schema or f"apps.{domain}.model:Recipe")
    return instance(compose(domain, name, overrides, kind), kind)


def variants(overrides: Sequence[str], most: int = 256) -> Iterator[list[str]]:
    """Expand the sweeps among the overrides (`a=1,2`) as Hydra's multirun does; at most `most` of the combinations."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        parsed = OverridesParser.create().parse_overrides(list(overrides))
    except HydraException as error:
        raise explain(error, overrides, object) from None
    axes = [
        [f"{o.get_key_element()}={v}" for v in o.sweep_string_iterator()] if o.is_sweep_override() else [o.input_line]
        for o in parsed
    ]
    for chosen in itertools.islice(itertools.product(*axes), most):
        yield [str(c) for c in chosen]


def settings(value: Any, prefix: str = "") -> Iterator[tuple[str, dict[str, Any], Any]]:
    """Yield (dotted path, rule, value) of each field of a dataclass instance, depth first."""
    for field in dataclasses.fields(value):
        path, inner = f"{prefix}{field.name}", getattr(value, field.name)
        if dataclasses.is_dataclass(inner):
            yield from settings(inner, f"{path}.")
        else:
            yield path, dict(field.metadata), inner


def check(path: str, rule: dict[str, Any], value: Any) -> None:
    """Raise a `UsageError` if a value breaks the rule that `setting` declared for it."""
    if rule.get("size") is not None and len(value) != rule["size"]:
        raise UsageError(f"needs {rule['size']} entries", field=path, value=list(value))
    for item in value if isinstance(value, list | tuple) else [value]:
        if rule.get("choices") is not None and item not in rule["choices"]:
            raise UsageError("not a valid choice", field=path, value=item, choices=rule["choices"])
        if not isinstance(item, int | float) or isinstance(item, bool):
            continue
        if rule.get("low") is not None and not item >= rule["low"]:
            raise UsageError(f"must be at least {rule['low']}", field=path, value=item)
        if rule.get("high") is not None and not item <= rule["high"]:
            raise UsageError(f"must be at most {rule['high']}", field=path, value=item)
        if rule.get("below") is not None and not item < rule["below"]:
            raise UsageError(f"must be below {rule['below']}", field=path, value=item)


def filled(
    config: Mapping[str, Any], defaults: Mapping[str, Any], prefix: str = ""
) -> tuple[dict[str, Any], list[str]]:
    """Return an older run's config with the settings that it does not know at their defaults, and their names."""
    whole, added = dict(config), []
    for key, value in defaults.items():
        if key not in config:
            whole[key] = value
            added.append(f"{prefix}{key}={value}")
        elif isinstance(value, Mapping) and isinstance(config[key], Mapping):
            whole[key], inner = filled(config[key], value, f"{prefix}{key}.")
            added += inner
    return whole, added


def keys(schema: Any, prefix: str = "") -> list[str]:
    """Return the dotted paths of a schema's leaves."""
    import typing

    found: list[str] = []
    types = typing.get_type_hints(schema) if dataclasses.is_dataclass(schema) else {}
    for name, kind in types.items():
        found += keys(kind, f"{prefix}{name}.") if dataclasses.is_dataclass(kind) else [f"{prefix}{name}"]
    return found


def entries(overrides: Sequence[str], schema: type | str) -> list[str]:
    """Let `key=value` add to a setting that is a mapping, for which Hydra wants `++key=value`."""
    import typing

    def mappings(kind: Any, prefix: str = "") -> Iterator[str]:
        for name, inner in typing.get_type_hints(kind).items():
            if dataclasses.is_dataclass(inner):
                yield from mappings(inner, f"{prefix}{name}.")
            elif typing.get_origin(inner) is dict:
                yield f"{prefix}{name}"

    whole = tuple(mappings(locate(schema) if isinstance(schema, str) else schema))
    parts = tuple(f"{path}." for path in whole)
    return [f"++{o}" if o.partition("=")[0] in whole or o.startswith(parts) else o for o in overrides]


def explain(error: Exception, overrides: Sequence[str], schema: type | str) -> QuintetError:
    """Translate an error of Hydra or OmegaConf into one line: the field, the value, the nearest valid choice."""
    kind = locate(schema) if isinstance(schema, str) else schema
    inner = error.__context__  # Hydra raises from None what OmegaConf found in a recipe's file
    cause = error.__cause__ or (inner if getattr(inner, "full_key", None) else None) or error
    text = " ".join(str(error).split())
    message = str(cause).splitlines()[0] if str(cause) else type(error).__name__
    given = {k.lstrip("+~"): v for k, _, v in (o.partition("=") for o in overrides)}
    if found := re.search(r"Could not find '([^']+)/([^'/]+)' Available options in '[^']+': (.*)", text):
        return UsageError("no such choice", field=found[1], value=found[2], choices=found[3].split())
    if "Config group override must be" in text:
        return UsageError("a group is chosen by its name, such as trainer=cpu", field="recipe")
    if re.search(r"primary config '.*' must be a DictConfig", text):
        return UsageError("must hold settings, key: value", field="recipe")
    if found := re.search(r"Could not (?:override|delete|append)[^']*'([^']+)'", text):
        path = found[1].lstrip("+~").split("=")[0]
        return UsageError("no such setting", field=path, value=given.get(path), choices=closest(path, kind))
    path = getattr(cause, "full_key", None) or ""
    if type(cause).__name__ in {"ConfigKeyError", "ConfigAttributeError"}:
        return UsageError("no such setting", field=path, value=given.get(path), choices=closest(path, kind))
    if type(error).__name__ == "OverrideParseException":
        wrong, _, value = str(getattr(error, "override", "")).partition("=")
        quote = "; text with brackets or commas stands in quotation marks" if set(value) & set("(,") else ""
        return UsageError("cannot be read", field=wrong.lstrip("+~"), value=value, hint=f"expected key=value{quote}")
    return UsageError(message, field=path or None, value=given.get(path))


def closest(path: str, schema: type) -> list[str]:
    """Return the settings most like `path`; those of the same group, or all, where none is alike."""
    from core.errors import nearest

    known = keys(schema)
    group = [k for k in known if k.split(".")[0] == path.split(".")[0]]
    return nearest(path, known) or group or sorted({k.split(".")[0] for k in known})
