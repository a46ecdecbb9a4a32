# The broker alone, as a user that owns nothing; works on a read-only file system. deploy/compose.yaml shows it in company.
#
#     docker build -t sse-broker .
#     docker run --rm -p 127.0.0.1:8080:8080 -e BROKER_ANONYMOUS=publish,subscribe sse-broker
#
# Every setting is an environment variable (BROKER_REDIS_URL), or a flag behind the image's name (serve --redis-url=…). It
# doesn't start without being told who may do what: BROKER_JWT_SECRETS and its like, or that anybody may, as above.

# The version that the tests run on.
ARG PYTHON=3.11

# With compilers, should a dependency have no wheel for this platform.
FROM python:${PYTHON}-bookworm AS build
WORKDIR /src
COPY pyproject.toml README.md ./
COPY broker broker
RUN pip wheel --no-cache-dir --wheel-dir /wheels .

FROM python:${PYTHON}-slim-bookworm
# From a mount: a copied wheel would stay in a layer. pip compiles what it installs, so nothing needs to be written later.
RUN --mount=type=bind,from=build,source=/wheels,target=/wheels \
    pip install --no-cache-dir --no-index --find-links=/wheels sse-broker

# Inside a container loopback reaches nobody. Whoever publishes the port decides who reaches it.
ENV BROKER_HOST=0.0.0.0 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
USER 65532:65532
EXPOSE 8080

# Whether the process answers; not readyz, for to be restarted doesn't help a broker whose Redis is away.
HEALTHCHECK --interval=10s --timeout=3s CMD ["python", "-c", "import os, urllib.request as r; r.urlopen(f'http://127.0.0.1:{os.environ.get(\"BROKER_PORT\", 8080)}/healthz', timeout=2)"]

# As lists: a shell between would keep SIGTERM, which drains, to itself.
ENTRYPOINT ["broker"]
CMD ["serve"]
