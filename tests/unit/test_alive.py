import os
import time
from datetime import timedelta

from shopstream.adapters.ports import adapters_of
from shopstream.cli.run import with_heartbeat
from shopstream.config import Settings


def test_a_process_of_the_aws_profile_that_asks_whether_to_stop_shows_that_it_lives(tmp_path):
    settings = Settings(profile="aws", home=tmp_path / "home")
    assert with_heartbeat(adapters_of(settings).heartbeat_file, lambda: True)() is True
    assert time.time() - (settings.home / "alive").stat().st_mtime < timedelta(minutes=1).total_seconds()


def test_the_file_is_not_touched_at_each_question(tmp_path):
    settings = Settings(profile="aws", home=tmp_path)
    asked = with_heartbeat(adapters_of(settings).heartbeat_file, lambda: False)
    asked()
    os.utime(tmp_path / "alive", (0, 0))
    assert asked() is False
    assert (tmp_path / "alive").stat().st_mtime == 0


def test_the_embedded_profile_has_no_such_file(tmp_path):
    with_heartbeat(adapters_of(Settings(home=tmp_path)).heartbeat_file, lambda: False)()
    assert list(tmp_path.iterdir()) == []
