# The broker alone, as an unprivileged user; it works on a read-only file system. deploy/compose.yaml runs three of them.
#
#     docker build -t sse-broker .
#     docker run --rm -p 127.0.0.1:8080:8080 -e BROKER_ANONYMOUS=publish,subscribe sse-broker
#
# Every setting is an environment variable (BROKER_REDIS_URL) or a flag after the image's name (serve --redis-url=…). It
# doesn't start without access control: set BROKER_JWT_SECRETS or other keys, or open it with BROKER_ANONYMOUS as above.

# The version that the tests use. An image by its digest is the same tomorrow: --build-arg IMAGE=python@sha256:…
ARG PYTHON=3.11
ARG IMAGE=python:${PYTHON}-bookworm
ARG SLIM_IMAGE=python:${PYTHON}-slim-bookworm

# This image has compilers. They compile the broker's core; docker build --build-arg BROKER_COMPILED=0 leaves it pure Python.
FROM ${IMAGE} AS build
ARG BROKER_COMPILED=1
WORKDIR /src
COPY pyproject.toml README.md ./
COPY deploy/hatch_build.py deploy/
COPY broker broker
RUN pip wheel --no-cache-dir --wheel-dir /wheels .

FROM ${SLIM_IMAGE}
# A mount leaves no wheels in the image's layers. pip compiles all modules, so nothing is written at run time.
RUN --mount=type=bind,from=build,source=/wheels,target=/wheels \
    pip install --no-cache-dir --no-index --find-links=/wheels sse-broker

# Loopback inside a container is unreachable from outside. Publishing the port decides which networks reach it.
ENV BROKER_HOST=0.0.0.0 \
    BROKER_PORT=8080 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
USER 65532:65532
EXPOSE 8080

# healthz and not readyz: a restart doesn't help while Redis is unreachable. It asks at BROKER_HOST and BROKER_PORT, by HTTP or
# HTTPS: set these two as variables, not as flags.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s CMD ["python", "-m", "broker.process.health"]

# As lists: a shell in between wouldn't pass on SIGTERM, which starts the drain.
ENTRYPOINT ["broker"]
CMD ["serve"]
