"""The server's routes: OpenAI's completions, chat completions and models; health and metrics; and the /predict of an earlier study.

A streamed answer is sent as server-sent events, one chunk for each round of decoding. When a client leaves, while it waits or while it
reads, its job is cancelled.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial

from fastapi import Depends, FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from specexp.errors import UserError
from specexp.live.engine import Answer
from specexp.serve.errors import BodyLimit, add_handlers, failure, refusal
from specexp.serve.forms import ChatForm, CompletionForm, Form
from specexp.serve.protocol import ChatRequest, CompletionRequest, Generate, PredictRequest
from specexp.serve.service import FINISH, LOCAL, ServerSettings, Service, usage, usage_of
from specexp.serve.worker import Closed, Full, Job, Metrics, Worker

PREDICT_TOKENS, PREDICT_SAMPLING = 40, {"temperature": 1.0, "top_k": 10, "top_p": 0.9}  # of the earlier study's server
PLAIN_TEXT = "text/plain; version=0.0.4; charset=utf-8"


def create_app(service: Service, settings: ServerSettings) -> FastAPI:
    """service: what is offered. settings: limits and key."""
    app = FastAPI(title="specexp", lifespan=_lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    app.state.metrics = Metrics()
    app.state.service = service
    app.state.settings = settings
    app.add_middleware(BodyLimit, limit=settings.body_bytes)
    add_handlers(app)
    for path, answer in (("/v1/completions", complete), ("/v1/chat/completions", chat), ("/predict", predict)):
        app.post(path, response_model=None, dependencies=[Depends(authorised), Depends(json_only)])(answer)
    for path, answer in (("/v1/models", models), ("/v1/models/{name:path}", model), ("/metrics", metrics)):
        app.get(path, response_model=None, dependencies=[Depends(authorised)])(answer)
    app.get("/health", response_model=None)(health)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    worker = Worker(app.state.service.decode, app.state.settings.queue, partial(_finished, app))
    app.state.worker = worker
    grace = app.state.settings.grace_seconds
    app.state.close = partial(asyncio.get_running_loop().call_soon_threadsafe, worker.close, grace)  # for a signal handler
    app.state.metrics.gauge("queue_length", "requests that wait", lambda: worker.waiting)
    app.state.metrics.gauge("running", "requests being decoded", lambda: worker.running is not None)
    task = asyncio.create_task(worker.run())
    yield
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


def _finished(app: FastAPI, job: Job) -> None:
    """The bookkeeping of a job that the decoder ran."""
    if job.answer is not None:
        job.speculation = app.state.service.speculation(job.answer)
    app.state.metrics.finished(job)


async def authorised(request: Request) -> None:
    """Refuses a wrong key; and where none is asked for, what a web page of another place sends from its visitor's browser. The comparison
    takes equally long however much of the key was right.
    """
    key = request.app.state.settings.api_key
    if key is None:
        _refuse_pages(request)
        return
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(), key.encode()):
        message = "the API key is missing or wrong; send it as a bearer token."
        raise refusal(401, message, code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"})


def _refuse_pages(request: Request) -> None:
    """Any page can make a browser send requests to this machine. They come with the page's origin, or, where its own name was made to mean
    this machine, with that name as the host.
    """
    settings, host, origin = request.app.state.settings, request.headers.get("host", LOCAL[0]), request.headers.get("origin")
    foreign = origin is not None and origin.partition("//")[2] != host
    name = re.sub(r":\d+$", "", host).strip("[]").lower()
    if foreign or (settings.host in LOCAL and name not in LOCAL):
        way_out = f"start it with {settings.api_key_env}, or call it http://{LOCAL[0]}"
        raise refusal(403, f"requests of {origin if foreign else host} are refused, as this server asks for no key; {way_out}.")


async def json_only(request: Request) -> None:
    """Refuses a body that is not called JSON: a page can send any other kind without asking the server first."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise refusal(415, f"the content type is {kind or 'not given'}; send application/json.")


async def health(request: Request) -> Response:
    closed = request.app.state.worker.closed
    return JSONResponse({"status": "stopping" if closed else "ok"}, 503 if closed else 200)


async def metrics(request: Request) -> Response:
    return Response(request.app.state.metrics.exposition(), media_type=PLAIN_TEXT)


async def models(request: Request) -> Response:
    return JSONResponse({"object": "list", "data": [_model(request.app.state.service)]})


async def model(request: Request, name: str) -> Response:
    _check_model(request.app.state.service, name)
    return JSONResponse(_model(request.app.state.service))


def _model(service: Service) -> dict:
    length = {} if service.engine.longest_text is None else {"max_model_len": service.engine.longest_text}
    return {"id": service.model, "object": "model", "created": service.created, "owned_by": "specexp", **length}


async def complete(asked: CompletionRequest, request: Request) -> Response:
    return await _respond(asked, request, CompletionForm(request.app.state.service.model))


async def chat(asked: ChatRequest, request: Request) -> Response:
    return await _respond(asked, request, ChatForm(request.app.state.service.model))


async def predict(request: Request) -> Response:
    """Answers a prompt with the prompt and its continuation, as one JSON string. The earlier study's errors have a form of their own."""
    try:
        asked = PredictRequest.model_validate_json(await request.body())
    except ValueError:
        return JSONResponse({"error": 'send {"prompt": TEXT} as JSON'}, 400)
    service = request.app.state.service
    if not service.decoder.follows_sampling:
        message = f"/predict draws its text, and method={service.method} draws no tokens; use /v1/completions instead."
        return JSONResponse({"error": message}, 400)
    job = await _begun(CompletionRequest(prompt=asked.prompt, max_tokens=PREDICT_TOKENS, **PREDICT_SAMPLING), request)
    return JSONResponse(asked.prompt + (await _answer(job, request)).text)


async def _respond(asked: Generate, request: Request, form: Form) -> Response:
    job = await _begun(asked, request)
    if asked.stream:
        events = _events(job, asked, form, request)
        return StreamingResponse(events, media_type="text/event-stream", headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
    answer = await _answer(job, request)
    extra = {"usage": usage(job.request, answer), "speculation": job.speculation}
    return JSONResponse(form.whole(answer.text, FINISH[answer.finish]) | extra)


async def _begun(asked: Generate, request: Request) -> Job:
    """The job of a request, once its first round is made: whatever can be refused has been refused by then."""
    state = request.app.state
    _check_model(state.service, asked.model)
    client = asked.user or asked.safety_identifier or (request.client.host if request.client else "")
    job = Job(client, await asyncio.to_thread(state.service.request, asked))
    try:
        state.worker.submit(job)
    except Full:
        state.metrics.requests.labels("refused").inc()
        raise refusal(429, f"{state.settings.queue} requests are waiting already; try again later.", headers={"Retry-After": "1"}) from None
    except Closed:
        raise _stopping() from None
    await _while_present(request, job, job.begun)
    _check_error(job)
    return job


async def _answer(job: Job, request: Request) -> Answer:
    await _while_present(request, job, job.ended)
    _check_error(job)
    return job.answer


async def _while_present(request: Request, job: Job, event: asyncio.Event) -> None:
    """Wait for the event. If the client leaves first, its job is cancelled."""
    wanted, gone = asyncio.create_task(event.wait()), asyncio.create_task(_gone(request))
    try:
        await asyncio.wait({wanted, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not event.is_set():
            raise refusal(499, "the client has left.")  # the status that nginx uses for this; no client reads it
    finally:
        if not event.is_set():
            request.app.state.worker.cancel(job)
        wanted.cancel()
        gone.cancel()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _events(job: Job, asked: Generate, form: Form, request: Request) -> AsyncIterator[str]:
    """Server-sent events: chunks of text, then how the text ended, then the usage if it was asked for."""
    state = request.app.state
    try:
        for chunk in form.opening():
            yield _event(chunk)
        async for text, tokens in job.text():
            so_far = {"usage": usage_of(job.request, tokens)} if asked.streaming.continuous_usage_stats else {}
            yield _event(form.delta(text) | so_far)
        if job.error is not None:
            yield _event({"error": _failure(job.error).detail})
            return
        yield _event(form.end(FINISH[job.answer.finish]) | {"speculation": job.speculation})
        if asked.streaming.include_usage:
            yield _event(form.without_choice() | {"usage": usage(job.request, job.answer)})
        yield "data: [DONE]\n\n"
    finally:
        state.worker.cancel(job)


def _event(chunk: dict) -> str:
    return f"data: {json.dumps(chunk)}\n\n"


def _check_model(service: Service, name: str | None) -> None:
    if name not in (None, service.model):
        raise refusal(404, f"the model {name} is not served here; this is {service.model}.", "model", "model_not_found")


def _check_error(job: Job) -> None:
    if job.error is not None:
        raise _failure(job.error)


def _failure(error: BaseException) -> Exception:
    if isinstance(error, UserError):
        return refusal(400, str(error))
    return _stopping() if isinstance(error, Closed) else failure()


def _stopping() -> Exception:
    return refusal(503, "the server is stopping; try another one.")
