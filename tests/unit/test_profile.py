"""The embedded profile has nothing of AWS in it, and the AWS profile says what it lacks."""

import os
import subprocess
import sys

import pytest

CSV = """event_time,event_type,product_id,category_id,category_code,brand,price,user_id,user_session
2019-11-05 10:00:00 UTC,view,1,2,,,1.00,3,4
"""


def run(code, **environment):
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        check=False,
        timeout=120,
    )


def test_the_embedded_profile_never_loads_boto3(tmp_path):
    day = tmp_path / "day.csv"
    day.write_text(CSV)
    code = f"""
import sys
from shopstream.cli import app
for command in (["simulate", {str(day)!r}], ["run", "--until-caught-up", "-q"], ["status"], ["incidents", "list"],
                ["lake", "status"], ["notify", "list"], ["journeys"]):
    app(["--home", {str(tmp_path / "home")!r}, *command], standalone_mode=False)
print([name for name in sys.modules if name.partition(".")[0] == "boto3"], file=sys.stderr)
"""
    done = run(code)
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1] == "[]"


@pytest.mark.parametrize("command", [["status"], ["doctor"], ["incidents", "list"], ["run"], ["lake", "status"]])
def test_without_the_extra_the_aws_profile_says_how_to_install_it(command, tmp_path):
    code = f"""
import sys
sys.modules["boto3"] = None  # as if it were not installed
sys.argv = ["shopstream", *{command!r}]
from shopstream.cli import main
main()
"""
    done = run(code, SHOPSTREAM_PROFILE="aws", SHOPSTREAM_HOME=str(tmp_path))
    assert done.returncode == 1
    assert "install the extra `aws` (`make env` does)" in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


def test_the_demo_refuses_the_aws_profile(tmp_path):
    code = """
import sys
sys.argv = ["shopstream", "demo"]
from shopstream.cli import main
main()
"""
    done = run(code, SHOPSTREAM_PROFILE="aws", SHOPSTREAM_HOME=str(tmp_path / "home"))
    assert done.returncode == 1
    assert "set SHOPSTREAM_PROFILE=embedded" in " ".join(done.stderr.split())
    assert not (tmp_path / "home").exists()
