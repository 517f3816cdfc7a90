"""Settings of shopstream for its containers and functions, as the variables of docs/configuration.md."""

from collections.abc import Mapping

from shopstream_infra.config import StageConfig
from shopstream_infra.incidents import Incidents
from shopstream_infra.lake import Lake
from shopstream_infra.streams import Streams

__all__ = ["delivery_name", "function_settings", "worker_settings", "workgroup_name"]


def delivery_name(config: StageConfig) -> str:
    """The Firehose stream of final detections."""
    return config.named("detections")


def workgroup_name(config: StageConfig) -> str:
    """The Athena workgroup."""
    return config.prefix


def worker_settings(config: StageConfig, streams: Streams, incidents: Incidents, lake: Lake) -> dict[str, str]:
    """Settings of every container, and of people who work from their own machine."""
    return _shared(config, incidents, lake) | {
        "SHOPSTREAM_HOME": "/data",
        "SHOPSTREAM_TIMEZONE": config.timezone,
        "SHOPSTREAM_AWS__DETECTION": config.detection,
        "SHOPSTREAM_ENGINE__COMMIT_INTERVAL": "PT60S",  # each commit costs some ten S3 requests; no alarm waits for it
        "SHOPSTREAM_AWS__KINESIS__EVENTS": streams.events.stream_name,
        "SHOPSTREAM_AWS__KINESIS__SIGNALS": config.named("signals"),
        "SHOPSTREAM_AWS__KINESIS__LEASES": streams.leases.table_name,
        "SHOPSTREAM_AWS__GLUE__DATABASE": lake.database_name,
        "SHOPSTREAM_AWS__GLUE__WAREHOUSE": lake.warehouse,
        "SHOPSTREAM_AWS__GLUE__WORKGROUP": workgroup_name(config),
        "SHOPSTREAM_AWS__CHECKPOINTS": lake.checkpoints,
        **config.settings,
    }


def function_settings(config: StageConfig, incidents: Incidents, lake: Lake) -> Mapping[str, str]:
    """Settings of the Lambda functions, as docs/lambda.md lists them."""
    return _shared(config, incidents, lake) | {"SHOPSTREAM_HOME": "/tmp/shopstream", "POWERTOOLS_LOG_LEVEL": "INFO"}  # noqa: S108  Lambda's only writable folder


def _shared(config: StageConfig, incidents: Incidents, lake: Lake) -> dict[str, str]:
    settings = {
        "SHOPSTREAM_PROFILE": "aws",
        "SHOPSTREAM_AWS__DYNAMODB__TABLE": incidents.table.table_name,
        "SHOPSTREAM_AWS__DYNAMODB__TOPIC_ARN": incidents.topic.topic_arn,
        "SHOPSTREAM_AWS__DELIVERY": delivery_name(config),
        "SHOPSTREAM_AWS__METRICS": config.metrics_namespace,
    }
    if config.baselines_key:
        settings["SHOPSTREAM_AWS__BASELINES"] = f"s3://{lake.bucket.bucket_name}/{config.baselines_key}"
    return settings | config.settings
