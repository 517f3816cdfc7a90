"""The CDK app: both stages, with the values of infra/stages.toml where there is one."""

import sys
from pathlib import Path

from aws_cdk import App

from shopstream_infra.config import ConfigError, load_stages
from shopstream_infra.stage import FLAGS, ShopstreamStage


def main() -> None:
    """Synthesise every stage."""
    app = App(context=FLAGS)
    for config in load_stages(Path(__file__).parent / "stages.toml").values():
        ShopstreamStage(app, config)
    app.synth()


if __name__ == "__main__":
    try:
        main()
    except ConfigError as error:
        sys.exit(str(error))
