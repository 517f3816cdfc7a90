from pathlib import Path

import duckdb
import pytest

from shopstream.events.codec import decode

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "rees46"

if SHARED.is_dir():

    @pytest.mark.parametrize("path", sorted(SHARED.glob("*.csv")), ids=lambda path: path.stem)
    def test_real_rows_are_read_as_plain_text_sql_reads_them(path):
        decoded = decode([path.read_bytes()], [1_600_000_000_000])
        assert decoded.rejects.num_rows == 0
        sql = duckdb.connect()
        sql.execute("SET TimeZone = 'UTC'")
        sql.register("events", decoded.events)
        ours = sql.execute("""
            SELECT strftime(event_time, '%Y-%m-%d %H:%M:%S UTC'), event_type, product_id::VARCHAR, category_id::VARCHAR,
                   coalesce(category_code, ''), coalesce(brand, ''), price::DECIMAL(18,4), user_id::VARCHAR,
                   coalesce(user_session, '')
            FROM events ORDER BY place""").fetchall()
        theirs = sql.execute(
            """
            SELECT event_time, event_type, product_id, category_id, coalesce(category_code, ''), coalesce(brand, ''),
                   price::DECIMAL(18,4), user_id, coalesce(user_session, '')
            FROM read_csv(?, all_varchar = true, header = true, nullstr = '', parallel = false)""",
            [str(path)],
        ).fetchall()
        assert ours == theirs
        assert len(ours) == {"2019-11-01-first-minutes": 683, "2019-oct-nov-random-sample": 10_912}[path.stem]
