"""Writes docs/configuration.md from the settings tree: `.venv/bin/python docs/write_configuration.py`."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

from pydantic import BaseModel, ByteSize, TypeAdapter
from pydantic.fields import FieldInfo

from shopstream.config import Settings

_HEAD = """# Configuration

`docs/write_configuration.py` writes this page from the settings tree; edit descriptions there.

Later sources win: the default, the settings file, the variable, the flag. The settings file is
`shopstream.toml` in the working directory, or the file that `--config` or `SHOPSTREAM_CONFIG`
names. A name with a dot is a table in TOML and two underscores in a variable:

```toml
timezone = "Europe/Berlin"   # SHOPSTREAM_TIMEZONE

[engine]
out_of_orderness = "PT30S"   # SHOPSTREAM_ENGINE__OUT_OF_ORDERNESS
```

Durations are ISO 8601 (`PT30S`, `PT5M`, `P1D`) or `hh:mm:ss`. Sizes are bytes or, where the default
is written so, like `8GiB`. Lists in variables are JSON (`'["a", "b"]'`). An unknown name or an
invalid value is an error. `shopstream config` prints the settings in force; secrets show as stars.
"""


def _leaves(model: type[BaseModel], path: str = "") -> Iterator[tuple[str, FieldInfo]]:
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _leaves(field.annotation, f"{path}{name}.")
        else:
            yield f"{path}{name}", field


def _default(value: object) -> str:
    if value is None or value == ():
        return "none"
    if isinstance(value, ByteSize):
        return f"`{value.human_readable().replace('.0', '')}`"
    if isinstance(value, timedelta):
        return f"`{TypeAdapter(timedelta).dump_python(value, mode='json')}`"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _title(branch: str) -> str:
    model: type[BaseModel] = Settings
    for name in branch.split("."):
        field = model.model_fields[name]
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            model = field.annotation
    return f"{branch}: {field.description}"


def text() -> str:
    """The page."""
    sections: dict[str, list[str]] = {}
    for name, field in _leaves(Settings):
        branch = name.rpartition(".")[0]
        variable = f"SHOPSTREAM_{name.replace('.', '__').upper()}"
        row = f"| `{name}` | `{variable}` | {_default(field.default)} | {field.description} |"
        sections.setdefault(branch, []).append(row)
    parts = [_HEAD]
    for branch, rows in sections.items():
        title = _title(branch) if branch else "The whole installation"
        parts.append("\n".join([f"## {title}\n", "| setting | variable | default | meaning |", "|---|---|---|---|", *rows, ""]))
    return "\n".join(parts)


if __name__ == "__main__":
    Path(__file__).with_name("configuration.md").write_text(text(), encoding="utf-8")
