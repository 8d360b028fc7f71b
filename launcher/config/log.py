"""The ``log`` section of a run file: how often figures are written, and where they go beside the
run's own folder."""

from __future__ import annotations

from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from dataloaders.trust import names_user
from launcher.config.data import Section


class MLflowSection(Section):
    """Figures for MLflow. Without a server they lie in the run's own folder."""

    enabled: bool = Field(default=False, description="send figures")
    tracking_uri: str | None = Field(
        default=None,
        min_length=1,
        description="a server, or a folder as file:/path; null: <run>/mlflow, no network",
    )
    experiment: str = Field(default="gcg", min_length=1, description="its name there")

    @field_validator("tracking_uri")
    @classmethod
    def _no_password(cls, uri: str | None) -> str | None:
        try:
            parts = urlsplit(uri or "")
            named = names_user(uri or "")
        except ValueError as error:
            raise ValueError(f"is no URL ({error}); give http://…, file:/path or null") from None
        if named or (parts.scheme.startswith("http") and parts.query):
            # The value would end in config.yaml, in checkpoints and on the run's page.
            raise ValueError(
                "holds a user, a password or a query, which would be written into the run's "
                "folder; set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or "
                "MLFLOW_TRACKING_TOKEN, in the environment"
            )
        return uri


class WandbSection(Section):
    """Figures for Weights & Biases. Offline they lie in <run>/wandb until `wandb sync`."""

    enabled: bool = Field(default=False, description="send figures")
    project: str = Field(default="gcg", min_length=1, description="its name there")
    entity: str | None = Field(default=None, min_length=1, description="user or team")
    mode: Literal["offline", "online"] = Field(
        default="offline", description="online: send while it runs"
    )


class LogSection(Section):
    every: int = Field(default=10, ge=1, description="steps")
    questions: bool = Field(
        default=False, description="write which questions every step was made of: questions.jsonl"
    )
    profile: int = Field(
        default=0, ge=0, le=100, description="steps of an attempt to trace, once; 0: none"
    )
    tensorboard: bool = Field(default=True, description="event files in the run's folder")
    prometheus: bool = Field(default=True, description="through Ray's metrics, where Ray runs")
    mlflow: MLflowSection = MLflowSection()
    wandb: WandbSection = WandbSection()
