# MLflow's server and Prefect's server and services: everything of a stack that neither trains nor reads domain data.
# Built by docker-compose.yml from the repository's root.
FROM python:3.11.14-slim-bookworm

# More arguments for pip, such as a mirror of your own.
ARG PIP_ARGS=""
ENV PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 \
    DO_NOT_TRACK=true PREFECT_SERVER_ANALYTICS_ENABLED=false MLFLOW_DISABLE_TELEMETRY=true \
    PREFECT_HOME=/tmp/prefect GIT_PYTHON_REFRESH=quiet

WORKDIR /factory
COPY constraints.txt ./
# fastapi and SQLAlchemy are named because newer ones than pyproject.toml allows break Prefect 3.8.
RUN pip install ${PIP_ARGS} --constraint constraints.txt \
    mlflow prefect fastapi SQLAlchemy asyncpg prefect-redis Flask-WTF "psycopg[binary]" boto3
COPY stack/basic_auth.ini stack/

# The folders exist with their owner, so that new volumes mounted there belong to that user.
RUN chmod -R a+rX stack \
    && useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin factory \
    && install --directory --owner=10001 /artifacts /scratch
USER 10001
