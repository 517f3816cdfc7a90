import ast
from datetime import UTC, datetime
from decimal import Decimal

import jinja2
import pyarrow as pa
import pytest
import yaml

import factories
from shopstream.events.schema import LAKE_FIELDS, arrow_schema
from shopstream.lakehouse.embedded import EmbeddedLakehouse
from shopstream.lakehouse.ports import LakeTable
from shopstream.models.dbt import PROJECT, BuildResult, build


def make_event(number, at, kind, user, *, product=1, brand="acme", price="10.00", session="s"):
    moment = datetime.fromisoformat(at + "+00:00")
    return dict.fromkeys(field.name for field in LAKE_FIELDS) | factories.make_event(
        moment,
        user,
        event_type=kind,
        product=product,
        category_id=2053013555631882655 + product % 2,
        category_code="electronics.smartphone" if product % 2 else None,
        brand=brand,
        price=Decimal(price),
        user_session=session,
        event_id=f"{number:032x}",
        arrival_time=moment,
        is_late=False,
    )


# One shop day and a bit: shopper 1 buys, 2 leaves the cart, 3 fills one at the end, 4 only looks.
EVENTS = [
    make_event(1, "2019-11-01 08:00:00", "view", 1),
    make_event(2, "2019-11-01 08:01:00", "cart", 1),
    make_event(3, "2019-11-01 08:02:00", "purchase", 1),
    make_event(4, "2019-11-01 09:00:00", "view", 2, product=2, brand="nan"),
    make_event(5, "2019-11-01 09:01:00", "cart", 2, product=2, brand="nan", price="25.50"),
    make_event(5, "2019-11-01 09:01:00", "cart", 2, product=2, brand="nan", price="25.50"),
    make_event(6, "2019-11-01 23:30:00", "view", 4, brand=None, session=None),
    make_event(7, "2019-11-02 10:00:00", "cart", 3),
    make_event(8, "2019-11-02 10:10:00", "view", 1),
]


def append_to(lakehouse, events, sequence_number=1):
    rows = pa.Table.from_pylist(events, schema=arrow_schema(LAKE_FIELDS))
    lakehouse.append(LakeTable.EVENTS, rows, {"shard-0": sequence_number})


@pytest.fixture(scope="session")
def event():
    """Makes one row of the lake."""
    return make_event


@pytest.fixture(scope="session")
def append():
    """Commits rows to a lakehouse."""
    return append_to


@pytest.fixture
def shop_events():
    """A shop day and a bit, as rows of the lake."""
    return list(EVENTS)


@pytest.fixture
def lakehouse(tmp_path):
    lake = EmbeddedLakehouse(tmp_path / "lake")
    yield lake
    lake.close()


@pytest.fixture(scope="session")
def built(tmp_path_factory):
    """A home with a lake and thoroughly tested reports, for tests that only read."""
    home = tmp_path_factory.mktemp("home")
    lake = EmbeddedLakehouse(home / "lake")
    append_to(lake, EVENTS)
    steps: list[tuple[str, int, int]] = []
    result = build(
        lake, home / "reports.duckdb", "Asia/Almaty", progress=lambda *step: steps.append(step), thorough=True
    )
    yield Built(home, lake, result, steps)
    lake.close()


class Built:
    def __init__(self, home, lakehouse, result: BuildResult, steps):
        self.home = home
        self.lakehouse = lakehouse
        self.result = result
        self.steps = steps
        self.reports = home / "reports.duckdb"


def project_macros(*, athena=False):
    """An environment without dbt and a database, and the project's macros in it."""
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, extensions=["jinja2.ext.do"])  # noqa: S701  SQL
    dialect = "default" if athena else "duckdb"
    macros: dict[str, object] = {}

    class Adapter:
        @staticmethod
        def dispatch(name, _package):
            return macros.get(f"{dialect}__{name}") or macros[f"default__{name}"]

    variables = yaml.safe_load((PROJECT / "dbt_project.yml").read_text())["vars"]
    context = {
        "adapter": Adapter,
        "config": lambda **_: "",
        "return": lambda value: value,
        "var": lambda name, default=None: variables.get(name, default),
        "ref": lambda name: name,
        "source": lambda schema, name: f"{schema}.{name}",
        "run_started_at": datetime(2026, 1, 1, tzinfo=UTC),
    }
    environment.globals |= context
    environment.globals |= macros
    for file in ("dialects.sql", "lake_events.sql", "measures.sql", "bots.sql"):
        module = environment.from_string((PROJECT / "macros" / file).read_text()).make_module()
        found = {name: getattr(module, name) for name in dir(module) if not name.startswith("_")}
        if "lake_columns" in found:  # outside of dbt, what a macro returns is text
            columns = ast.literal_eval(str(found["lake_columns"]()).strip())
            found["lake_columns"] = lambda columns=columns: columns
        macros |= found
        environment.globals |= found
    return environment, macros


def render(path, *, athena=False):
    """The model with its macros expanded."""
    return project_macros(athena=athena)[0].from_string(path.read_text()).render()


@pytest.fixture(scope="session")
def plain_macro():
    """Gives a macro by name, in DuckDB's dialect."""
    return lambda name: project_macros()[1][name]


@pytest.fixture(scope="session")
def plain_sql():
    """Gives a model's SQL with its macros expanded; a ref is a table of the same name."""
    return render
