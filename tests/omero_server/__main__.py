"""Run the server: `python -m tests.omero_server --dir FOLDER`; one JSON line with its ports when it is ready."""

from __future__ import annotations

import argparse
import json
import logging
import os
import socket
import sys
import threading
import warnings
from pathlib import Path

warnings.simplefilter("ignore", DeprecationWarning)
from . import wire  # noqa: E402, F401, I001  (before anything of omero)
from . import certificate, control  # noqa: E402
from .ice_server import IceServer, Ports  # noqa: E402
from .servants import factory  # noqa: E402


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on at this moment."""
    held = [socket.socket() for _ in range(count)]
    for one in held:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in held]
    for one in held:
        one.close()
    return ports


def main() -> None:
    """Start, say where, stay until stdin closes (--child) or Ctrl-C."""
    parser = argparse.ArgumentParser(prog="tests.omero_server")
    parser.add_argument(
        "--dir", type=Path, required=True, help="folder for the certificate and the files of the server"
    )
    parser.add_argument("--port", type=int, default=0, help="port for ssl (a free one)")
    parser.add_argument("--child", action="store_true", help="end when stdin closes")
    options = parser.parse_args()
    logging.basicConfig(level=logging.ERROR)
    options.dir.mkdir(parents=True, exist_ok=True)
    bundle, ca_file = certificate.make(options.dir) if certificate.can_make() else (None, None)
    ssl, tcp, ws, wss = free_ports(4)
    ports = Ports(options.port or ssl, tcp, ws, wss, bundle, certificate.PASSWORD) if bundle else Ports(tcp=tcp, ws=ws)
    factory.add_getters()
    server = IceServer(ports, options.dir)
    server.listen(factory.Router(server, None))
    ready = {
        "port": ports.ssl, "tcp_port": ports.tcp, "ws_port": ports.ws, "wss_port": ports.wss, "control": control.serve(server),
        "ca_file": str(ca_file) if ca_file else None, "pid": os.getpid(),
    }  # fmt: skip
    print(json.dumps(ready), flush=True)
    try:
        if options.child:
            sys.stdin.read()
            os._exit(0)
        threading.Event().wait()
    except KeyboardInterrupt:
        server.stop()


main()
