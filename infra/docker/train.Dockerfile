# GPU image: what `python -m components.pretrain` and the other stages run in. Build from the repository root:
#   docker build -f infra/docker/train.Dockerfile -t mmfs-train:0.1.0 .
FROM python:3.11.13-slim-bookworm AS python

FROM nvidia/cuda:13.0.1-base-ubuntu24.04
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates git libbz2-1.0 libffi8 liblzma5 libreadline8t64 libsqlite3-0 libssl3t64 zlib1g \
    && rm -rf /var/lib/apt/lists/*
COPY --from=python /usr/local /usr/local
RUN ldconfig && useradd --create-home --uid 10001 mmfs && install -d -o mmfs -g mmfs /opt/venv /workspace
USER mmfs
WORKDIR /workspace
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1
COPY --chown=mmfs requirements.lock ./
COPY --chown=mmfs infra/install.sh infra/install.sh
RUN python3.11 -m venv /opt/venv && infra/install.sh /opt/venv
COPY --chown=mmfs infra/docker/checkout.sh /usr/local/bin/mmfs-checkout
COPY --chown=mmfs . .
RUN pip install --no-cache-dir --no-deps --no-build-isolation -e .
CMD ["python", "-m", "components.pretrain"]
