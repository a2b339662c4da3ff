"""Endpoints, places and secrets: from the environment only, never from params.yaml, never logged."""

from __future__ import annotations

import re
from collections.abc import MutableMapping
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from components.run.paths import Home

Fetch = Literal["auto", "shards", "ranges"]


class Settings(BaseSettings):
    """What this machine and this user bring along; every name is an environment variable."""

    model_config = SettingsConfigDict(env_prefix="MMFS_", frozen=True, extra="ignore", populate_by_name=True)

    root: Path = Field(default_factory=Path.cwd, description="MMFS_ROOT: the repository's main checkout; the current folder where absent")
    events: Path | None = Field(None, description="MMFS_EVENTS: the file a stage tells its events to")
    work: Path | None = Field(None, description="MMFS_WORK: unfinished work; .mmfs/work where absent")
    run_id: str | None = Field(None, description="MMFS_RUN_ID: the mmfs run a stage belongs to")
    parent_run_id: str | None = Field(None, description="MMFS_PARENT_RUN_ID: the MLflow run a stage's run is a child of")
    carried: bool = Field(False, description="MMFS_CARRIED: the flow's process sends the stage's tracking records to MLflow")
    experiment: str = Field("mmfs", description="MMFS_EXPERIMENT: the MLflow experiment")
    ledger: str | None = Field(
        None, description="MMFS_LEDGER: where promotions are decided, a folder or s3://bucket/prefix; .mmfs/ledger where absent"
    )
    prepare_workers: int | None = Field(
        None, ge=0, description="MMFS_PREPARE_WORKERS: processes that prepare input shards; every core where absent, none of its own for 0"
    )
    dask: str | None = Field(None, description="MMFS_DASK: address of a Dask scheduler whose workers prepare instead")
    remote: str | None = Field(None, description="MMFS_REMOTE: address of the DVC remote; the one in .dvc/config where absent")
    vlm_endpoint: SecretStr | None = Field(
        None, description="MMFS_VLM_ENDPOINT: OpenAI-compatible address of a vision-language model, such as https://host/v1"
    )
    vlm_key: SecretStr | None = Field(None, description="MMFS_VLM_KEY: its key")
    checkpoints: str | None = Field(
        None, description="MMFS_CHECKPOINTS: a second place for checkpoints, a folder or s3://bucket/prefix; none where absent"
    )
    shard_cache: Path | None = Field(
        None, description="MMFS_SHARD_CACHE: whole shards fetched from the DVC remote; .mmfs/shards where absent"
    )
    shard_cache_bytes: int = Field(50_000_000_000, ge=0, description="MMFS_SHARD_CACHE_BYTES: what they may take of the disk; 0 keeps none")
    fetch: Fetch = Field(
        "auto",
        description="MMFS_FETCH: what is asked of a remote on S3: whole `shards` into the cache, `ranges` of them, or shards where all fit",
    )
    restarts: int = Field(
        3,
        ge=0,
        description="MMFS_RESTARTS: times that ranks are started again after a failure of the machine; a checkpoint refills it",
    )
    restart_delay_s: float = Field(
        2.0, ge=0, description="MMFS_RESTART_DELAY_S: pause before the first of them, doubled for each further one, seconds"
    )
    hang_s: float = Field(
        1800.0,
        ge=0,
        description="MMFS_HANG_S: when no rank has moved for so long, all are ended and started again, seconds; 0 never",
    )
    stop_grace_s: float = Field(
        10.0, ge=0, description="MMFS_STOP_GRACE_S: what ranks get after SIGTERM to save a checkpoint before they are killed, seconds"
    )
    tracking_uri: str = Field("", validation_alias="MLFLOW_TRACKING_URI", description="MLflow's address; mlflow.db in `root` where absent")
    tracking_username: str | None = Field(None, validation_alias="MLFLOW_TRACKING_USERNAME")
    tracking_password: SecretStr | None = Field(None, validation_alias="MLFLOW_TRACKING_PASSWORD")
    tracking_token: SecretStr | None = Field(None, validation_alias="MLFLOW_TRACKING_TOKEN")

    @model_validator(mode="before")
    @classmethod
    def _empty_is_absent(cls, values: dict[str, object]) -> dict[str, object]:
        return {key: value for key, value in values.items() if value != ""}

    @model_validator(mode="after")
    def _resolve(self) -> Self:
        object.__setattr__(self, "root", self.root.resolve())
        for name in ("work", "shard_cache"):
            if (place := getattr(self, name)) is not None:
                object.__setattr__(self, name, place.resolve())
        if not self.tracking_uri:
            object.__setattr__(self, "tracking_uri", f"sqlite:///{self.root / 'mlflow.db'}")
        return self

    @property
    def home(self) -> Home:
        """What mmfs keeps for this repository."""
        return Home(self.root)

    @property
    def work_root(self) -> Path:
        """The folder of all work folders."""
        return self.work or self.home.work

    @property
    def ledger_address(self) -> str:
        """Where the ledger's entries lie."""
        return self.ledger or str(self.home.folder / "ledger")

    @property
    def artifact_location(self) -> str | None:
        """Where a new experiment keeps its files; a server decides on its own."""
        return (self.root / "mlartifacts").as_uri() if self.tracking_uri.startswith("sqlite:") else None

    def child_environment(self) -> dict[str, str]:
        """What a child process needs to see the same places; secrets stay in the inherited environment."""
        return {
            "MMFS_ROOT": str(self.root),
            "MMFS_WORK": str(self.work_root),
            "MMFS_EXPERIMENT": self.experiment,
            "MLFLOW_TRACKING_URI": self.tracking_uri,
        }


def quiet_environment() -> dict[str, str]:
    """Variables that keep every tool from calling home and every hub from being asked."""
    return {
        "DO_NOT_TRACK": "1",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        "MLFLOW_RECORD_ENV_VARS_IN_MODEL_LOGGING": "false",
        "DVC_NO_ANALYTICS": "1",
        "DVC_STUDIO_OFFLINE": "1",
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_DATASETS_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "GRADIO_ANALYTICS_ENABLED": "False",
        "GIT_TERMINAL_PROMPT": "0",
    }


def quiet(environment: MutableMapping[str, str]) -> None:
    """Apply quiet_environment() where the user has not decided otherwise. Call before the tools are imported."""
    for name, value in quiet_environment().items():
        environment.setdefault(name, value)


def without_secrets(text: str) -> str:
    """Text with the user and password of every address left out."""
    return re.sub(r"://[^/\s]*@", "://", text)
