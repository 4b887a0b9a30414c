"""Starts the server of a checked configuration: it takes the port first, then loads the weights, then answers requests."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable
from dataclasses import replace

import uvicorn
from omegaconf import DictConfig

from specexp.errors import UserError
from specexp.live.engine import Request, open_decoder, open_pair
from specexp.serve.app import create_app
from specexp.serve.service import ServerSettings, Service

CUT_SECONDS = 5  # in which an answer that is cut short can still reach its client
WARMUP = Request((0,), 8, seed=("warmup",), ignore_eos=True)


class Server(uvicorn.Server):
    """At a signal, refuses the waiting requests at once and lets the running one go on for its time of grace."""

    def handle_exit(self, sig: int, frame: object) -> None:
        self.config.app.state.close()
        super().handle_exit(sig, frame)


def serve(config: DictConfig, build: Callable) -> None:
    """Serve until a signal comes. config: of conf/serve.yaml, checked. Raises UserError for what the user can put right."""
    settings = build(config.server)
    with listening(settings) as door:
        service = open_service(config, settings, build)
        app = create_app(service, settings)
        print(announcement(service, settings, door.getsockname()[1]), file=sys.stderr, flush=True)
        limits = {"timeout_graceful_shutdown": settings.grace_seconds + CUT_SECONDS, "log_level": "warning", "access_log": False}
        Server(uvicorn.Config(app, **limits)).run(sockets=[door])


def open_service(config: DictConfig, settings: ServerSettings, build: Callable) -> Service:
    """The service, with its weights loaded and everything run once, so that the first request is not slower than others."""
    service = Service(
        open_pair(config, build),
        open_decoder(config, build),
        settings.model,
        config.method.name,
        build(config.sampling),
        config.max_new_tokens,
        config.ignore_eos,
        config.seed,
    )
    service.decoder.check(service.usual)
    service.decode(replace(WARMUP, sampling=service.usual), lambda text, tokens: None, lambda: False)
    return service


def listening(settings: ServerSettings) -> socket.socket:
    """A socket that listens at the settings' host and port. UserError if another program listens there already."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        return socket.create_server((settings.host, settings.port), family=family, backlog=2048)
    except OSError as error:
        where = f"server.host={settings.host} server.port={settings.port}"
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise UserError(f"cannot listen at {where} ({reason}); choose another port.") from error


def announcement(service: Service, settings: ServerSettings, port: int) -> str:
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    line = f"specexp: {service.model} with method={service.method} at http://{host}:{port}/v1 (Ctrl-C stops)"
    warning = f"specexp: anyone who reaches {settings.host} may use it; set {settings.api_key_env} to ask for a key."
    return f"{line}\n{warning}" if settings.is_open else line

