"""What is true of each stage as a whole."""


def test_stacks_are_named_after_the_stage(stage):
    assert set(stage.templates) == {"data", "network", "analytics", "service", "watch"}


def test_nothing_is_looked_up_in_an_account(stage):
    assert all("dummy-value" not in path.read_text() for path in stage.files.values())
