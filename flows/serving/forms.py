"""Forms of requests and answers: MLflow's scoring protocol, and OpenAI's chat completions."""

import csv
import io
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import orjson

from alter_core.inference.prediction import Prediction
from alter_core.problems import first, kind_of, listed
from alter_core.text import damage
from flows.serving.served import Served

SHOWN = 20
COLUMNS = ("task", "input")
MAX_CHARACTERS = 1_000_000  # of one input, as in registry/scoring_model.py
_FORMS = ("dataframe_records", "dataframe_split", "instances", "inputs")
_PLAIN_CHAT = ("model", "messages")
_GREEDY = (
    "temperature",
    "top_p",
    "seed",
    "max_tokens",
    "max_completion_tokens",
    "frequency_penalty",
    "presence_penalty",
)
_HARMLESS = ("user", "metadata", "store", "stream_options", "service_tier")
_ONLY: Mapping[str, tuple[object, ...]] = {
    "n": (1,),
    "stream": (False,),
    "logprobs": (False,),
    "response_format": ({"type": "text"},),
}
"""Parts of a chat request that other values of would change the answer's form."""


class Refused(Exception):
    """A request that gets no answer: a status and what is wrong, all of it at once."""

    def __init__(self, status: HTTPStatus, headline: str, problems: Sequence[str] = ()) -> None:
        super().__init__("; ".join([headline, *first(problems, SHOWN)]))
        self.status = status


@dataclass(frozen=True)
class Rows:
    """What is asked."""

    tasks: Sequence[Any]
    inputs: Sequence[Any]
    """Texts, once `check` has seen them."""
    ignored: Sequence[str] = ()
    """Parts of the request that have no effect."""

    def check(self, served: Served, most: int) -> None:
        """Raises Refused with every row that cannot be answered."""
        if not self.tasks:
            raise Refused(HTTPStatus.BAD_REQUEST, "there are no rows; send at least one with task and input")
        if len(self.tasks) > most:
            raise Refused(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                f"{len(self.tasks):,} rows in one request, at most {most:,} are taken: send several requests",
            )
        known = served.predictor.spec.task_names
        problems = []
        for number, (task, text) in enumerate(zip(self.tasks, self.inputs, strict=True)):
            for name, value in zip(COLUMNS, (task, text), strict=True):
                if wrong := _wrong(value):
                    problems.append(f"row {number}: {name} {wrong}")
            if isinstance(task, str) and task.strip() and task not in known:
                problems.append(f"row {number}: {served.domain} has no task {task[:100]!r}")
        if problems:
            hint = f"; the tasks of {served.domain} are {listed(known)}" if "has no task" in "".join(problems) else ""
            count = "1 row" if len(problems) == 1 else f"{len(problems)} things"
            raise Refused(HTTPStatus.BAD_REQUEST, f"{count} cannot be answered{hint}", problems)


def _wrong(value: object) -> str | None:
    if not isinstance(value, str):
        return "is missing" if value is _MISSING else f"must be a text, got {kind_of(value)}"
    if not value.strip():
        return "is empty"
    if len(value) > MAX_CHARACTERS:
        return f"has {len(value):,} characters, at most {MAX_CHARACTERS:,} are taken"
    return damage(value)


_MISSING = object()


def mlflow_rows(body: bytes, content_type: str) -> Rows:
    """Rows of a request to /invocations, in each form that MLflow's server takes, Parquet excepted. Raises Refused."""
    kind, _, parameters = content_type.partition(";")
    charset = parameters.partition("charset=")[2].strip(' "').lower() or "utf-8"
    if kind.strip() not in ("application/json", "text/csv") or charset not in ("utf-8", "utf8"):
        raise Refused(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            f"the content type is {content_type or 'not told'}: send application/json or text/csv, in UTF-8",
        )
    if kind.strip() == "text/csv":
        return _of_csv(body)
    asked = _object(body)
    given = [form for form in _FORMS if form in asked]
    if len(given) != 1:
        raise Refused(
            HTTPStatus.BAD_REQUEST, f"send exactly one of {listed(_FORMS)}; got {listed(list(asked)) or 'none'}"
        )
    form, beside = asked[given[0]], [key for key in asked if key not in _FORMS]
    if given[0] == "dataframe_split":
        return _of_split(form, beside)
    if given[0] in ("inputs", "instances") and isinstance(form, dict):
        return _of_columns(form, given[0], beside)
    return _of_records(form, given[0], beside)


def _object(body: bytes) -> dict[str, Any]:
    try:
        asked = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Refused(HTTPStatus.BAD_REQUEST, f"the body is no JSON: {error}") from None
    if not isinstance(asked, dict):
        raise Refused(HTTPStatus.BAD_REQUEST, f"the body must be a JSON object, got {kind_of(asked)}")
    return asked


def _of_records(records: Any, form: str, beside: list[str]) -> Rows:
    if not isinstance(records, list):
        raise Refused(HTTPStatus.BAD_REQUEST, f"{form} must be a list of rows, got {kind_of(records)}")
    problems = [
        f"row {number}: must be an object with task and input, got {kind_of(row)}"
        for number, row in enumerate(records)
        if not isinstance(row, dict)
    ]
    if problems:
        raise Refused(HTTPStatus.BAD_REQUEST, f"{form} cannot be read", problems)
    others = dict.fromkeys(key for row in records for key in row if key not in COLUMNS)
    tasks, inputs = ([row.get(name, _MISSING) for row in records] for name in COLUMNS)
    return Rows(tasks, inputs, [*beside, *others])


def _of_split(split: Any, beside: list[str]) -> Rows:
    columns, data = (split.get(key) if isinstance(split, dict) else None for key in ("columns", "data"))
    if not isinstance(columns, list) or not isinstance(data, list):
        raise Refused(HTTPStatus.BAD_REQUEST, "dataframe_split must be an object with the lists columns and data")
    problems = [
        f"row {number}: must be a list of {len(columns)} values, one for each column"
        for number, row in enumerate(data)
        if not isinstance(row, list) or len(row) != len(columns)
    ]
    if problems:
        raise Refused(HTTPStatus.BAD_REQUEST, "dataframe_split cannot be read", problems)
    names = list(map(str, columns))
    return _of_records([dict(zip(names, row, strict=True)) for row in data], "dataframe_split", beside)


def _of_columns(columns: dict[str, Any], form: str, beside: list[str]) -> Rows:
    found = {name: value if isinstance(value, list) else [value] for name, value in columns.items()}
    if missing := [name for name in COLUMNS if name not in found]:
        raise Refused(HTTPStatus.BAD_REQUEST, f"{form} lacks {listed(missing)}: send task and input, a list each")
    tasks, inputs = (found[name] for name in COLUMNS)
    if len(tasks) != len(inputs):
        raise Refused(HTTPStatus.BAD_REQUEST, f"{form} has {len(tasks)} tasks and {len(inputs)} inputs: one per row")
    return Rows(tasks, inputs, [*beside, *(name for name in columns if name not in COLUMNS)])


def _of_csv(body: bytes) -> Rows:
    try:
        lines = list(csv.DictReader(io.StringIO(body.decode("utf-8-sig"), newline=""), strict=True))
    except UnicodeDecodeError as error:
        raise Refused(HTTPStatus.BAD_REQUEST, f"byte {error.start + 1} of the body is not UTF-8") from None
    except csv.Error as error:
        raise Refused(HTTPStatus.BAD_REQUEST, f"the body is no CSV: {error}") from None
    problems = [f"row {number}: has more cells than the header" for number, row in enumerate(lines) if None in row]
    if problems:
        raise Refused(HTTPStatus.BAD_REQUEST, "the CSV cannot be read", problems)
    return _of_records(lines, "the CSV", [])


def mlflow_answer(served: Served, rows: Rows, answers: Sequence[Prediction]) -> dict[str, Any]:
    """As MLflow's server answers, and beside it the version, and what of the request had no effect."""
    return {
        "predictions": [answer.to_json() for answer in answers],
        "model": served.name,
        **({"ignored": list(rows.ignored)} if rows.ignored else {}),
    }


@dataclass(frozen=True)
class Chat:
    """A chat completion that is asked of a task."""

    domain: str
    rows: Rows


def chat_of(body: bytes) -> Chat:
    """One user message to the model `domain/task`. Raises Refused for what no task could answer."""
    asked = _object(body)
    model, messages = asked.get("model"), asked.get("messages")
    problems = []
    domain, _, task = model.partition("/") if isinstance(model, str) else ("", "", "")
    if not task:
        problems.append(f"model must be DOMAIN/TASK, got {model!r:.100}")
    if not isinstance(messages, list) or len(messages) != 1 or not isinstance(messages[0], dict):
        problems.append("messages must hold one message: a task has its own instruction and answers one input")
        text: object = ""
    else:
        text = _content(messages[0].get("content"))
        if messages[0].get("role") != "user":
            problems.append(f"messages[0]: role must be 'user', got {messages[0].get('role')!r:.100}")
        if not isinstance(text, str):
            problems.append("messages[0]: content must be a text, or a list of parts of type text")
    for key, taken in _ONLY.items():
        if asked.get(key) is not None and asked[key] not in taken:
            problems.append(f"{key} must be {orjson.dumps(taken[0]).decode()}")
    known = {*_PLAIN_CHAT, *_GREEDY, *_HARMLESS, *_ONLY}
    problems += [f"{key[:100]} is not supported" for key, value in asked.items() if key not in known and value]
    if problems:
        raise Refused(HTTPStatus.BAD_REQUEST, "the request cannot be answered", problems)
    return Chat(domain, Rows([task], [text], [key for key in _GREEDY if asked.get(key) is not None]))


def _content(content: Any) -> object:
    """A message's text; None where it is none."""
    if not isinstance(content, list):
        return content
    parts = [part.get("text") for part in content if isinstance(part, dict) and part.get("type") == "text"]
    texts = [text for text in parts if isinstance(text, str)]
    return "".join(texts) if len(texts) == len(content) else None


def chat_answer(served: Served, rows: Rows, answers: Sequence[Prediction]) -> dict[str, Any]:
    """As OpenAI's API answers; `system_fingerprint` names the version."""
    (task,), (answer,) = rows.tasks, answers
    return {
        "id": f"chatcmpl-{uuid.uuid4().hex}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": f"{served.domain}/{task}",
        "system_fingerprint": served.name,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": answer.text},
                "finish_reason": "stop",
                "score": float(answer.score),
                "truncated": answer.truncated,
                "abstain": answer.abstain,
            }
        ],
        **({"ignored": list(rows.ignored)} if rows.ignored else {}),
    }
