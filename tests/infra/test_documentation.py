"""docs/aws.md has every setting of a stage, with what each stage is shipped with."""

import re
from dataclasses import fields

from shopstream_infra.alarms import Alarm
from shopstream_infra.config import REPOSITORY, STAGES, StageConfig

ROWS = {
    name: (dev, prod, meaning)
    for name, dev, prod, meaning in re.findall(
        r"^\| `(\w+)` \| (\S.*?) \| (\S.*?) \| (\S.*?) \|$",
        (REPOSITORY / "docs" / "aws.md").read_text(encoding="utf-8"),
        re.MULTILINE,
    )
}


def shown(value):
    if value == "":
        return "\N{EN DASH}"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def test_the_table_lists_exactly_the_settings_of_a_stage():
    assert set(ROWS) == {field.name for field in fields(StageConfig)} - {"name"}


def test_the_table_has_the_shipped_values():
    for name, (dev, prod, meaning) in ROWS.items():
        assert (dev, prod) == tuple(shown(getattr(STAGES[stage], name)) for stage in ("dev", "prod")), name
        assert meaning


def test_every_alarm_names_an_existing_page():
    assert [alarm for alarm in Alarm if not (REPOSITORY / alarm.runbook).is_file()] == []
