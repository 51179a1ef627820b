"""docker-compose.yml, .env.example and the Dockerfiles, read as text: no Docker engine is needed."""

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from dotenv import dotenv_values
from jsonschema import Draft7Validator
from prefect.settings import get_current_settings
from prefect_redis.cleanup_queue import RedisWorkerCleanupQueueSettings
from prefect_redis.client import RedisMessagingSettings

from benchmarks.images import steps_of
from stack.passwords import NAMES
from stack.place import Place, Ports
from stack.programs import mlflow_environment, prefect_environment

ROOT = Path(__file__).parent.parent.parent
TEXT = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
COMPOSE: dict[str, Any] = yaml.safe_load(TEXT)
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
EXAMPLE = {name: value or "" for name, value in dotenv_values(ROOT / ".env.example").items()}
VARIABLE = re.compile(r"(?<!\$)\$\{([A-Z0-9_]+)(:[-?])?([^}]*)\}")
ONE_SHOT = {"mlflow-upgrade", "prefect-upgrade", "prepare", "alter", "mlflow-gc"}
OWN = {"alter-servers:0.1.0": "servers", "alter-worker:0.1.0": "worker"}
PINNED = re.compile(r"[a-z0-9/_-]+:\d+(\.\d+)+[a-z0-9.-]*")
ALWAYS_ON = sorted(set(SERVICES) - ONE_SHOT)


def environment(service: str) -> dict[str, str]:
    return dict(SERVICES[service].get("environment", {}))


def test_it_is_a_compose_file_to_the_last_field() -> None:
    schema = Draft7Validator(json.loads((Path(__file__).parent / "schemas" / "compose.json").read_text("utf-8")))
    passwords = dict.fromkeys(NAMES, "secret")
    filled = VARIABLE.sub(lambda found: passwords.get(found[1]) or EXAMPLE[found[1]], TEXT).replace("$$", "$")
    for text in (TEXT, filled):
        assert [f"{error.json_path}: {error.message}" for error in schema.iter_errors(yaml.safe_load(text))] == []
    misspelt = TEXT.replace("stop_grace_period", "stop_grace")
    assert list(schema.iter_errors(yaml.safe_load(misspelt)))


@pytest.mark.parametrize("service", SERVICES)
def test_every_image_has_a_version_of_its_own(service: str) -> None:
    assert PINNED.fullmatch(SERVICES[service]["image"])


def test_every_variable_is_explained_and_every_explained_one_is_used() -> None:
    assert {name for name, _, _ in VARIABLE.findall(TEXT)} == set(EXAMPLE)


def test_passwords_have_no_default_and_everything_else_has_the_one_that_is_told() -> None:
    for name, how, rest in VARIABLE.findall(TEXT):
        if name in NAMES:
            assert (how, EXAMPLE[name]) == (":?", ""), name
            assert ".env" in rest
        else:
            assert (how, rest) == (":-", EXAMPLE[name]), name


def test_the_passwords_are_those_of_the_stack_without_docker() -> None:
    assert {name for name, how, _ in VARIABLE.findall(TEXT) if how == ":?"} == set(NAMES)


def test_only_uis_and_the_endpoint_are_reached_and_from_this_machine_alone_unless_told_otherwise() -> None:
    ports = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert ports == {
        "mlflow": ["${ALTER_BIND:-127.0.0.1}:${MLFLOW_PORT:-5000}:5000"],
        "prefect-server": ["${ALTER_BIND:-127.0.0.1}:${PREFECT_PORT:-4200}:4200"],
        "endpoint": ["${ALTER_BIND:-127.0.0.1}:${ALTER_ENDPOINT_PORT:-8000}:8000"],
    }
    assert EXAMPLE["ALTER_BIND"] == "127.0.0.1"


def test_every_volume_is_declared_and_every_declared_one_is_used() -> None:
    used = {str(v).split(":")[0] for service in SERVICES.values() for v in service.get("volumes", [])}
    named = {name for name in used if not name.startswith((".", "$"))}
    assert named == set(COMPOSE["volumes"])


@pytest.mark.parametrize("service", ALWAYS_ON)
def test_what_stays_on_is_watched_limited_and_started_again(service: str) -> None:
    one = SERVICES[service]
    assert one["restart"] == "unless-stopped"
    assert one["deploy"]["resources"]["limits"]["memory"]
    assert one["logging"]["options"]["max-size"]
    watched = one["healthcheck"]
    assert watched.get("test") or (service == "prefect-services" and watched == {"disable": True})


def test_a_service_waits_for_what_can_be_waited_for() -> None:
    for name, service in SERVICES.items():
        for other, how in service.get("depends_on", {}).items():
            ends = "service_completed_successfully" if other in ONE_SHOT else "service_healthy"
            assert how == {"condition": ends}, f"{name} waits for {other}"
            assert ends != "service_healthy" or SERVICES[other]["healthcheck"].get("test")
    assert set(SERVICES["mlflow"]["depends_on"]) >= {"postgres", "mlflow-upgrade"}
    assert set(SERVICES["prefect-server"]["depends_on"]) >= {"postgres", "redis", "prefect-upgrade"}


def test_workers_reach_no_database_and_hold_none_of_its_passwords() -> None:
    for name in ("worker", "worker-gpu", "alter"):
        assert SERVICES[name]["networks"] == ["api"]
        known = {found for value in environment(name).values() for found, how, _ in VARIABLE.findall(str(value)) if how}
        assert known & set(NAMES) == {"PREFECT_PASSWORD", "MLFLOW_FACTORY_PASSWORD"}
    assert COMPOSE["networks"]["data"] == {"internal": True}


def test_the_endpoint_only_reads_the_registry_and_has_a_token() -> None:
    one = SERVICES["endpoint"]
    assert one["networks"] == ["api"]
    known = {found for value in environment("endpoint").values() for found, _, _ in VARIABLE.findall(str(value))}
    assert known == {"MLFLOW_READER_PASSWORD", "ALTER_ENDPOINT_TOKEN"}
    assert one["volumes"] == ["endpoint:/workspace"]
    assert "--host 0.0.0.0" in one["command"][-1]  # where it starts with a token only


@pytest.mark.parametrize("service", [name for name, one in SERVICES.items() if one["image"] in OWN])
def test_our_own_images_run_with_no_privileges_and_report_nothing(service: str) -> None:
    one = SERVICES[service]
    assert one["build"]["dockerfile"] == f"stack/{OWN[one['image']]}.Dockerfile"
    assert one["read_only"]
    assert one["cap_drop"] == ["ALL"]
    assert one["security_opt"] == ["no-new-privileges:true"]
    assert environment(service)["DO_NOT_TRACK"] == "true"
    assert environment(service)["MLFLOW_DISABLE_TELEMETRY"] == "true"
    assert environment(service)["PREFECT_SERVER_ANALYTICS_ENABLED"] == "false"


def test_images_hold_no_rows_of_domains() -> None:
    """`alter new` puts rows under domains/NAME/data, and images are pushed to where others read them."""
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    let_through = [line[1:] for line in lines if line.startswith("!domains")]
    assert not [
        each for each in let_through if Path("domains/support/data/rows.jsonl").match(each) or each == "domains"
    ]
    kept = {str(path.relative_to(ROOT)) for each in let_through for path in ROOT.glob(each)}
    assert {"domains/pydocs/domain.yaml", "domains/pydocs/source.py", "domains/__init__.py"} <= kept


def test_a_command_line_holds_no_password() -> None:
    for service in SERVICES.values():
        words = " ".join(map(str, [service.get("command", ""), service.get("healthcheck", "")]))
        assert not {name for name, _, _ in VARIABLE.findall(words)} & set(NAMES)


def test_the_stack_without_docker_has_the_same_settings(tmp_path: Path) -> None:
    place = Place(tmp_path, Ports())
    place.prepare()
    here = set(prefect_environment(place, redis=True))
    there = set(environment("prefect-server")) | {"PREFECT_SERVER_API_HOST"}  # there it is an option of the command
    told = {"DO_NOT_TRACK", "PREFECT_SERVER_ANALYTICS_ENABLED", "MLFLOW_DISABLE_TELEMETRY", "GX_ANALYTICS_ENABLED"}
    assert here == there - told - {"PREFECT_UI_API_URL", "PREFECT_UI_STATIC_DIRECTORY"}
    assert set(mlflow_environment(place)) - {"PGPORT"} <= set(environment("mlflow"))
    assert set(place.client()) <= set(environment("worker"))


def test_every_setting_of_prefect_is_one_that_prefect_knows() -> None:
    """A misspelt one would be ignored without a word."""
    asked = {name for service in SERVICES for name in environment(service) if name.startswith("PREFECT_")}
    redis = {f"PREFECT_REDIS_MESSAGING_{name.upper()}" for name in RedisMessagingSettings.model_fields}
    redis |= {
        f"PREFECT_REDIS_WORKER_CLEANUP_QUEUE_{name.upper()}" for name in RedisWorkerCleanupQueueSettings.model_fields
    }
    unknown = {
        name for name in asked - redis - set(NAMES) if name.lower() not in _prefect_names(get_current_settings())
    }
    assert unknown == set()


def _prefect_names(settings: Any) -> set[str]:
    """Every environment variable that Prefect reads, in lower case."""
    found: set[str] = set()
    prefix = str(settings.model_config.get("env_prefix", "")).lower()
    for name, info in type(settings).model_fields.items():
        value = getattr(settings, name)
        if hasattr(value, "model_config"):
            found |= _prefect_names(value)
        alias = getattr(info.validation_alias, "choices", [name])
        found |= {each if each.startswith("prefect_") else prefix + each for each in alias if isinstance(each, str)}
        found.add(prefix + name)
    return found


@pytest.mark.parametrize("name", ["servers", "worker"])
class TestDockerfile:
    def test_it_begins_with_a_version_and_ends_as_nobody_special(self, name: str) -> None:
        steps = steps_of(name)
        assert PINNED.fullmatch(steps[0][1])
        assert [words for step, words in steps if step == "FROM"] == [steps[0][1]]
        assert steps[-1] == ("USER", "10001")

    def test_what_it_copies_is_there_and_let_through(self, name: str) -> None:
        lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
        let_through = {line[1:] for line in lines if line.startswith("!")}
        assert "*" in lines
        for step, words in steps_of(name):
            if step == "COPY":
                for source in shlex.split(words)[:-1]:
                    assert (ROOT / source).exists(), source
                    assert any(each.split("/")[0] == source.split("/")[0] for each in let_through)

    def test_every_package_is_installed_in_the_versions_that_were_tested(self, name: str) -> None:
        installs = [part for step, words in steps_of(name) if step == "RUN" for part in words.split("&&")]
        installs = [part for part in installs if "pip install" in part]
        assert installs
        assert all("--constraint constraints.txt" in part for part in installs)

    def test_it_sends_no_telemetry(self, name: str) -> None:
        told = " ".join(words for step, words in steps_of(name) if step == "ENV")
        for setting in ("DO_NOT_TRACK=true", "MLFLOW_DISABLE_TELEMETRY=true", "PREFECT_SERVER_ANALYTICS_ENABLED=false"):
            assert setting in told


def test_the_servers_image_names_what_it_needs_in_versions_that_are_pinned() -> None:
    pinned = {
        line.split("==")[0].lower().replace("_", "-") for line in (ROOT / "constraints.txt").read_text().splitlines()
    }
    (install,) = [words for step, words in steps_of("servers") if "pip install" in words]
    packages = install.split("constraints.txt ")[1]
    for package in shlex.split(packages):
        assert package.lower().partition("[")[0] in pinned, package
