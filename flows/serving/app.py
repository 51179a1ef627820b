"""The endpoint's routes: MLflow's scoring protocol, OpenAI's chat completions, health and metrics."""

import asyncio
import hmac
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import orjson
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from flows.serving.batching import Batcher, Full
from flows.serving.champions import Champions
from flows.serving.forms import Refused, Rows, chat_answer, chat_of, mlflow_answer, mlflow_rows
from flows.serving.metrics import Metrics
from flows.serving.request_log import RequestLog
from flows.serving.served import Served

log = logging.getLogger(__name__)
GATHER_SECONDS = 0.05
MODEL_HEADER = "X-Alter-Model"
TIDY_SECONDS = 600.0
OPEN = ("/ping", "/health", "/ready")  # without a token, as those who look after processes have none
_WORDS = {
    HTTPStatus.UNAUTHORIZED: "UNAUTHENTICATED",
    HTTPStatus.NOT_FOUND: "RESOURCE_DOES_NOT_EXIST",
    HTTPStatus.TOO_MANY_REQUESTS: "REQUEST_LIMIT_EXCEEDED",
    HTTPStatus.INTERNAL_SERVER_ERROR: "INTERNAL_ERROR",
    HTTPStatus.GATEWAY_TIMEOUT: "DEADLINE_EXCEEDED",
}
"""MLflow's words for a status; others are BAD_REQUEST."""


@dataclass(frozen=True)
class Limits:
    """What one request may ask for, and what may wait."""

    body_bytes: int = 16 * 2**20
    rows: int = 10_000
    """Of a request."""
    queue_rows: int = 10_000
    """That wait for a batch; more get status 429."""
    batch_rows: int = 64
    seconds: float = 60.0
    """From a request's head to its answer."""

    @property
    def held_bytes(self) -> int:
        """Most bytes of all requests that are being read or answered."""
        return 4 * self.body_bytes


class Endpoint:
    """Champions behind HTTP. `app` is the ASGI application; `start` and `close` are its lifespan."""

    def __init__(self, domains: list[str], limits: Limits, token: str | None, requests: RequestLog | None) -> None:
        """Loads every champion. Raises AlterError with what is wrong with any."""
        self.limits, self._token, self._requests = limits, token, requests
        self.metrics = Metrics()
        self.batcher = Batcher(self.metrics, limits.queue_rows, limits.batch_rows, GATHER_SECONDS)
        self.champions = Champions(domains, self.metrics, self.batcher.turn)
        self._held = 0
        post: dict[str, Any] = {"methods": ["POST"]}
        self.app = Starlette(
            routes=[
                Route("/health", self._route(self._health)),
                Route("/ready", self._route(self._ready)),
                Route("/metrics", self._route(self._metrics_page)),
                Route("/ping", self._route(self._ping)),
                Route("/invocations", self._route(self._invocations), **post),
                Route("/v1/models", self._route(self._models)),
                Route("/v1/chat/completions", self._route(self._chat), **post),
                Route("/{domain}/ping", self._route(self._ping)),
                Route("/{domain}/invocations", self._route(self._invocations), **post),
            ],
            lifespan=self._lifespan,
        )

    @asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        self.champions.start()
        tidying = asyncio.create_task(self._tidy())
        yield
        tidying.cancel()
        await asyncio.to_thread(self.close)

    def close(self) -> None:
        """Answer what waits, and end."""
        self.champions.stop()
        self.batcher.close()
        if self._requests:
            self._requests.close()

    async def _tidy(self) -> None:
        while self._requests:
            await asyncio.sleep(TIDY_SECONDS)
            self._requests.tidy()

    def _route(self, answer: Callable[[Request], Any]) -> Callable[[Request], Any]:
        """`answer` with what holds for every route: the token, errors in the form of the protocol, metrics."""

        async def respond(request: Request) -> Response:
            begin = time.monotonic()
            path = request.scope["path"]
            if domain := request.path_params.get("domain"):  # of any name: it may not become a label
                path = path.replace(f"/{domain}/", "/DOMAIN/", 1)
            try:
                self._admit(request)
                response: Response = await answer(request)
            except Refused as error:
                response = self._refusal(path, error)
            except ClientDisconnect:
                response = Response(status_code=HTTPStatus.BAD_REQUEST)  # which nobody hears
            except Exception:
                log.exception("%s", path)
                text = "the request could not be answered; the server's log says why"
                response = self._refusal(path, Refused(HTTPStatus.INTERNAL_SERVER_ERROR, text))
            self.metrics.requests.labels(path, response.status_code).inc()
            self.metrics.request_seconds.labels(path).observe(time.monotonic() - begin)
            return response

        return respond

    def _admit(self, request: Request) -> None:
        if self._token is None or request.scope["path"] in OPEN or request.scope["path"].endswith("/ping"):
            return
        if not self._knows_token(request):
            raise Refused(HTTPStatus.UNAUTHORIZED, "send the header Authorization: Bearer TOKEN")

    def _knows_token(self, request: Request) -> bool:
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        wanted = (self._token or "").encode()
        return scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode("latin-1"), wanted)

    def _refusal(self, path: str, error: Refused) -> Response:
        status, text = error.status, str(error)
        code = _WORDS.get(status, "BAD_REQUEST")
        if path.startswith("/v1/"):
            kind = "invalid_request_error" if status < HTTPStatus.INTERNAL_SERVER_ERROR else "server_error"
            response = _json({"error": {"message": text, "type": kind, "param": None, "code": code.lower()}}, status)
        else:
            response = _json({"error_code": code, "message": text}, status)
        if status == HTTPStatus.TOO_MANY_REQUESTS:
            response.headers["Retry-After"] = "1"
        if status == HTTPStatus.UNAUTHORIZED:
            response.headers["WWW-Authenticate"] = "Bearer"
        return response

    async def _health(self, _: Request) -> Response:
        """Whether the process can answer at all; one that cannot should be started again."""
        alive = self.batcher.alive
        return _json({"alive": alive}, HTTPStatus.OK if alive else HTTPStatus.INTERNAL_SERVER_ERROR)

    async def _ready(self, request: Request) -> Response:
        """Whether requests should come here, and for those with the token what answers and what is wrong with it."""
        ready = self.batcher.alive
        told: dict[str, Any] = {"ready": ready}
        if self._token is None or self._knows_token(request):
            told["domains"] = {
                name: {"version": self.champions.serving(name).version, "trouble": self.champions.trouble(name)}
                for name in self.champions.domains
            }
        return _json(told, HTTPStatus.OK if ready else HTTPStatus.SERVICE_UNAVAILABLE)

    async def _metrics_page(self, _: Request) -> Response:
        return Response(self.metrics.page(), media_type="text/plain; version=0.0.4")

    async def _ping(self, request: Request) -> Response:
        if domain := request.path_params.get("domain"):
            self._served(domain)
        return Response("\n", media_type="application/json")

    async def _models(self, _: Request) -> Response:
        names = [
            f"{domain}/{task}"
            for domain in self.champions.domains
            for task in self.champions.serving(domain).predictor.spec.task_names
        ]
        listed = [{"id": name, "object": "model", "created": 0, "owned_by": "alter"} for name in names]
        return _json({"object": "list", "data": listed})

    async def _invocations(self, request: Request) -> Response:
        def ask(body: bytes) -> tuple[Served, Rows]:
            return self._served(domain), mlflow_rows(body, request.headers.get("content-type", ""))

        domain = request.path_params.get("domain") or self._only_domain()
        self._served(domain)  # before the body is read
        return await self._answer(request, ask, mlflow_answer)

    async def _chat(self, request: Request) -> Response:
        def ask(body: bytes) -> tuple[Served, Rows]:
            chat = chat_of(body)
            return self._served(chat.domain), chat.rows

        return await self._answer(request, ask, chat_answer)

    def _served(self, domain: str) -> Served:
        if domain not in self.champions.domains:
            names = ", ".join(self.champions.domains)
            raise Refused(HTTPStatus.NOT_FOUND, f"there is no domain {domain[:100]!r} here, but {names}")
        return self.champions.serving(domain)

    def _only_domain(self) -> str:
        first, *others = self.champions.domains
        if others:
            paths = ", ".join(f"/{name}/invocations" for name in self.champions.domains)
            raise Refused(HTTPStatus.NOT_FOUND, f"several domains are served: ask one of {paths}")
        return first

    async def _answer(
        self,
        request: Request,
        ask: Callable[[bytes], tuple[Served, Rows]],
        form: Callable[..., dict[str, Any]],
    ) -> Response:
        """Read, check, wait for the answers, and write them: all rows by the version that was champion when the
        request had come in."""
        held = 0
        try:
            async with asyncio.timeout(self.limits.seconds):
                parts = []
                async for part in request.stream():
                    held += len(part)
                    self._held += len(part)
                    if held > self.limits.body_bytes:
                        text = f"the body is over {self.limits.body_bytes:,} bytes: send several requests"
                        raise Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, text)
                    if self._held > self.limits.held_bytes:
                        raise self._too_many()
                    parts.append(part)
                served, rows = ask(b"".join(parts))
                del parts
                rows.check(served, self.limits.rows)
                try:
                    waiting = self.batcher.submit(served, rows.tasks, rows.inputs)
                except Full:
                    raise self._too_many() from None
                answers = await asyncio.wrap_future(waiting)
        except TimeoutError:
            text = f"no answer within {self.limits.seconds:g} s: send fewer rows, or later"
            raise Refused(HTTPStatus.GATEWAY_TIMEOUT, text) from None
        finally:
            self._held -= held
        self.metrics.answered(served, rows.tasks, answers)
        if self._requests and not self._requests.write(served, rows.tasks, rows.inputs, answers):
            self.metrics.log_failures.inc(len(answers))
        response = _json(form(served, rows, answers))
        response.headers[MODEL_HEADER] = served.name
        return response

    def _too_many(self) -> Refused:
        return Refused(HTTPStatus.TOO_MANY_REQUESTS, "too much waits to be answered: send it again a little later")


def _json(value: object, status: HTTPStatus = HTTPStatus.OK) -> Response:
    return Response(orjson.dumps(value), status, media_type="application/json")
