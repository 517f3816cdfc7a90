"""Runs moto's server on a free loopback port, which it prints; ends with its standard input."""

import os
import sys
import threading

from glue_versions import keep_versions
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import make_server


def main():
    keep_versions()
    server = make_server(
        "127.0.0.1",
        0,
        DomainDispatcherApplication(create_backend_app),
        threaded=True,
        request_handler=MotoRequestHandler,
    )
    os.environ["MOTO_PORT"] = str(server.port)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    sys.stdout.write(f"listening {server.port}\n")
    sys.stdout.flush()
    server.serve_forever()


def _end_with_parent():
    sys.stdin.read()
    os._exit(0)


main()
