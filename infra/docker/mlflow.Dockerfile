# Image of the MLflow server, with nothing of ours inside. Build from the repository root:
#   docker build -f infra/docker/mlflow.Dockerfile -t mmfs-mlflow:0.1.0 .
FROM python:3.11.13-slim-bookworm
RUN useradd --create-home --uid 10001 mmfs && install -d -o mmfs -g mmfs /opt/venv
USER mmfs
WORKDIR /home/mmfs
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1
COPY --chown=mmfs requirements.lock ./
COPY --chown=mmfs infra/docker/mlflow.lock ./
# The lock is only a bound here, so that what MLflow does not need stays out.
RUN grep -E '^[A-Za-z]' requirements.lock >bounds.txt \
    && python3.11 -m venv /opt/venv \
    && pip install --no-cache-dir -c bounds.txt -r mlflow.lock
COPY --chown=mmfs infra/docker/mlflow-server.sh infra/docker/buckets.py ./
EXPOSE 5000
CMD ["./mlflow-server.sh"]
