"""Say in the chat what is posted by HTTP: a build server, a monitor, a cron job.

    python3 docs/examples/webhook_bridge.py [HTTP_PORT [HOST [PORT]]]
    curl --data 'build 41 passed' http://127.0.0.1:8080/
"""

import socket
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer


def main(http_port: str = "8080", host: str = "127.0.0.1", port: str = "4000") -> None:
    server = socket.create_connection((host, int(port)))
    server.sendall(b"webhook\n")
    # A client that does not read is disconnected.
    threading.Thread(target=lambda: [None for _ in iter(lambda: server.recv(65536), b"")], daemon=True).start()

    class Hook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            posted = self.rfile.read(min(int(self.headers["Content-Length"] or 0), 4000))
            text = " ".join(posted.decode("utf-8", "replace").split())
            # A space in front would hide a command from nobody; a second slash does.
            server.sendall(f"{'/' if text.startswith('/') else ''}{text}\n".encode())
            self.send_response(204)
            self.end_headers()

    with HTTPServer(("127.0.0.1", int(http_port)), Hook) as hooks:
        print(f"listening on 127.0.0.1:{hooks.server_port}", flush=True)
        hooks.serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
