"""The engine's task with its dashboard, and the archive workers for windows on Flink."""

from constructs import Construct

from shopstream_infra.cluster import Cluster

__all__ = ["Archive", "Worker"]

_ALIVE = ["CMD-SHELL", 'test -n "$(find /data/alive -mmin -5)"']
"""A working process touches its heartbeat file every ten seconds, also while it waits for the lease."""

_PAGE = "http://127.0.0.1:8787/healthz"


class Worker(Construct):
    """`shopstream run` and `shopstream dashboard` over one data volume; standbys wait for the lease.

    The dashboard listens on loopback only; use port forwarding through ECS Exec, see docs/aws.md.
    """

    def __init__(self, scope: Construct, construct_id: str, *, cluster: Cluster) -> None:
        super().__init__(scope, construct_id)
        config = cluster.config
        task = cluster.task(self, "worker", cpu=config.worker_cpu, memory_mib=config.worker_memory_mib)
        # Python, Arrow and the dashboard take the other half.
        windows = {"SHOPSTREAM_ENGINE__MEMORY_LIMIT": f"{config.worker_memory_mib // 2}MiB"}
        cluster.container(task, "engine", ["run", "--quiet"], health=_ALIVE, defaults=windows)
        cluster.container(
            task,
            "dashboard",
            ["dashboard"],
            essential=False,
            health=["CMD", "python", "-c", f"import urllib.request; urllib.request.urlopen('{_PAGE}', timeout=5)"],
        )
        self.service = cluster.service(self, "worker", task, desired_count=1 + config.worker_standby)


class Archive(Construct):
    """`shopstream archive`: writes the events to the lake while Flink computes the windows; off by default."""

    def __init__(self, scope: Construct, construct_id: str, *, cluster: Cluster) -> None:
        super().__init__(scope, construct_id)
        config = cluster.config
        task = cluster.task(self, "archive", cpu=config.worker_cpu, memory_mib=config.worker_memory_mib)
        cluster.container(task, "archive", ["archive", "--quiet"], health=_ALIVE)
        self.service = cluster.service(self, "archive", task, desired_count=config.archive_workers)
