"""Asks the server of `modkernel.flows.servers.engines` for an engine, and lives as long as it does.

It is run by its path, without site packages, so that it starts at once: it imports nothing of ours.
"""

import array
import json
import os
import signal
import socket
import sys


def main() -> int:
    """Ask; hand on SIGTERM and SIGINT; the engine's exit status, or end by the same signal."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        server.connect(sys.argv[1])
        asked = {"environment": dict(os.environ), "folder": os.getcwd()}
        descriptors = array.array("i", [0, 1, 2])
        text = json.dumps(asked).encode() + b"\n"
        sent = server.sendmsg(
            [text], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptors.tobytes())]
        )
        if rest := text[sent:]:
            server.sendall(rest)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda number, frame: server.send(bytes([number])))
        status = int(server.recv(64) or b"1")
    if status < 0:
        if -status != signal.SIGKILL:  # Which nobody can handle otherwise.
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    return status


if __name__ == "__main__":
    sys.exit(main())
