"""A real server in a thread, on a free port, for tests that talk to it as users do."""

import contextlib
import threading
import time

from specexp.serve.app import create_app
from specexp.serve.server import Server, listening
from specexp.serve.service import ServerSettings


@contextlib.contextmanager
def served(service, **settings):
    """Gives the server's base URL, up to /v1. Its app is `served.app` of the yielded namespace."""
    import uvicorn

    chosen = ServerSettings(service.model, port=0, **settings)
    door = listening(chosen)
    app = create_app(service, chosen)
    server = Server(uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=2))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [door]}, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield Address(f"http://127.0.0.1:{door.getsockname()[1]}", app, server)
    finally:
        server.should_exit = True
        thread.join(10)
        door.close()


class Address:
    def __init__(self, root, app, server):
        self.root, self.url, self.app, self.server = root, f"{root}/v1", app, server
