"""Makes moto's Glue keep what real Glue promises and Iceberg's commits stand on: UpdateTable with a VersionId that is
no longer the table's is refused (moto ignores it), and two requests for one table come one after the other.

https://docs.aws.amazon.com/glue/latest/webapi/API_UpdateTable.html
"""

import threading

from moto.core.exceptions import JsonRESTError
from moto.glue.models import GlueBackend
from moto.glue.responses import GlueResponse

_one_at_a_time = threading.RLock()


def keep_versions():
    """Change moto in this process."""
    update_table, create_table = GlueResponse.update_table, GlueBackend.create_table

    def update_if_current(self):
        with _one_at_a_time:
            expected = self.parameters.get("VersionId")
            if expected is not None:
                name = self.parameters["TableInput"]["Name"]
                table = self.glue_backend.get_table(self.parameters["DatabaseName"], name)
                if table.as_dict()["VersionId"] != expected:
                    message = "Update table failed due to concurrent modifications."
                    raise JsonRESTError("ConcurrentModificationException", message)
            return update_table(self)

    def create_once(self, *args, **kwargs):
        with _one_at_a_time:
            return create_table(self, *args, **kwargs)

    GlueResponse.update_table = update_if_current
    GlueBackend.create_table = create_once
