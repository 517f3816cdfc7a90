"""Cart lines by SQL windows equal cart lines by walking through the events."""

from datetime import UTC, datetime, timedelta

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shopstream.models.dbt import PROJECT

START = datetime(2019, 11, 1, tzinfo=UTC)
STEPS = {"view": -1, "cart": 0, "remove_from_cart": 1, "purchase": 2}

events = st.lists(
    st.tuples(
        st.integers(0, 9).map(lambda n: 300 * n) | st.integers(0, 3000),  # the limits are multiples of 300 s
        st.sampled_from(sorted(STEPS)),
        st.integers(1, 2),  # shopper
        st.integers(1, 2),  # product
        st.integers(1, 9),  # price
    ),
    max_size=25,
)


@pytest.fixture(scope="session")
def lines_of(plain_sql):
    sql = plain_sql(PROJECT / "intermediate" / "int_cart_lines.sql")
    connection = duckdb.connect()
    connection.execute("set timezone = 'UTC'")
    connection.execute("""
        create table stg_events (event_time timestamptz, event_type varchar, user_id bigint, product_id bigint,
            price decimal(18, 4), event_id varchar, category_id bigint, category varchar, brand varchar,
            shop_time timestamp, is_bot boolean)
    """)

    def lines(rows):
        connection.execute("delete from stg_events")
        for number, (second, kind, user, product, price) in enumerate(rows):
            at = START + timedelta(seconds=second)
            values = [at, kind, user, product, price, f"{number:03}", 7, "c", "b", at.replace(tzinfo=None), False]
            connection.execute(f"insert into stg_events values ({', '.join('?' * len(values))})", values)
        return connection.execute(f"""
            select user_id, product_id, line, state, value::int, times_carted,
                epoch(first_carted_time - timestamptz '{START}')::int,
                epoch(last_carted_time - timestamptz '{START}')::int
            from ({sql}) order by all
        """).fetchall()

    yield lines
    connection.close()


def walk(rows):
    """The definition, read aloud."""
    open_lines, number, bought, done = {}, {}, {}, []
    numbered = sorted(
        (second, STEPS[kind], n, user, product, price) for n, (second, kind, user, product, price) in enumerate(rows)
    )
    for second, step, _, user, product, price in numbered:
        pair = user, product
        if step == STEPS["cart"]:
            if pair in bought and second - bought[pair] <= 300:
                continue
            if pair not in open_lines:
                number[pair] = number.get(pair, 0) + 1
                open_lines[pair] = {"first": second, "times": 0}
            open_lines[pair] |= {"last": second, "price": price, "times": open_lines[pair]["times"] + 1}
        elif step > STEPS["cart"]:
            if step == STEPS["purchase"]:
                bought[pair] = second
            if pair in open_lines:
                done.append(
                    (pair, number[pair], "bought" if step == STEPS["purchase"] else "removed", open_lines.pop(pair))
                )
    end = max((row[0] for row in rows), default=0)
    done += [
        (pair, number[pair], "abandoned" if end - line["last"] >= 1800 else "open", line)
        for pair, line in open_lines.items()
    ]
    return sorted(
        (*pair, count, state, line["price"], line["times"], line["first"], line["last"])
        for pair, count, state, line in done
    )


@settings(deadline=None, max_examples=150)
@given(events)
def test_windows_find_the_lines_that_a_walk_finds(lines_of, rows):
    assert lines_of(rows) == walk(rows)
