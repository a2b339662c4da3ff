"""The `mmfs` command. To show help only light modules are imported; everything heavy comes with the command that needs it."""

from __future__ import annotations

from flows import (
    cli_data,
    cli_doctor,
    cli_generate,
    cli_models,
    cli_replay,
    cli_reproduce,
    cli_run,
    cli_runs,
    cli_services,
    cli_steps,
    cli_trace,
    cli_weights,
)
from flows.cli_output import application, explained

app = application(
    "Train, track, evaluate, promote and reproduce interleaved image-text models.\n\n"
    "Start with `mmfs doctor`, then `mmfs run`. Prefect, MLflow and DVC act on the same runs."
)
TOPICS = (
    *(cli_run, cli_runs, cli_steps, cli_data, cli_services, cli_generate, cli_models, cli_weights),
    *(cli_reproduce, cli_replay, cli_trace, cli_doctor),
)
for topic in TOPICS:
    topic.register(app)


def main() -> None:
    """Entry point of the `mmfs` script; the exit status says in sysexits.h's words what went wrong."""
    with explained():
        app()


if __name__ == "__main__":
    main()
