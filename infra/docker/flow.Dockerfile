# CPU image of the Prefect server, the workers and the flow runs. Build from the repository root:
#   docker build -f infra/docker/flow.Dockerfile -t mmfs-flow:0.1.0 .
FROM python:3.11.13-slim-bookworm
RUN apt-get update \
    && apt-get install --yes --no-install-recommends git \
    && rm -rf /var/lib/apt/lists/* \
    && git config --system --add safe.directory /workspace \
    && useradd --create-home --uid 10001 mmfs \
    && install -d -o mmfs -g mmfs /opt/venv /workspace
USER mmfs
WORKDIR /workspace
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1
COPY --chown=mmfs requirements.lock ./
COPY --chown=mmfs infra/install.sh infra/install.sh
COPY --chown=mmfs infra/docker/flow.lock infra/docker/flow.lock
RUN python3.11 -m venv /opt/venv && infra/install.sh /opt/venv && pip install --no-cache-dir --no-deps -r infra/docker/flow.lock
COPY --chown=mmfs infra/docker/checkout.sh /usr/local/bin/mmfs-checkout
COPY --chown=mmfs . .
RUN pip install --no-cache-dir --no-deps --no-build-isolation -e .
CMD ["mmfs", "--help"]
