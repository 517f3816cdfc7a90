"""The AWS profile as one deploy: `app.py` makes a stage, `stage.py` puts its stacks together."""
