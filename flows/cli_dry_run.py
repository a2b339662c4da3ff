"""`mmfs run --dry-run`: what a run would train, said and not done."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from flows.cli_output import out, print_json, print_table

if TYPE_CHECKING:
    from components.mixing import Weight
    from components.training.recipe import StagePlan
    from flows.options import RunOptions


def dry_run(options: RunOptions, as_json: bool) -> None:
    """Print the training stages of a run. Writes nothing and starts nothing. Raises ParamsError, ConfigError or StageError."""
    from components.params import ParamsError, parse
    from components.run.parameters import check_startable, merged
    from components.training.recipe import stage_plans

    params = parse(merged(options.root, options.preset, options.overrides, options.data))
    refusal = None
    try:
        check_startable(params)
    except ParamsError as error:
        refusal = str(error)
    plans = stage_plans(params)
    if as_json:
        print_json({"model": params.model.preset, "stages": [asdict(plan) for plan in plans], "refusal": refusal})
        return
    for plan in plans:
        _show(plan)
    if refusal is not None:
        out().print(f"`mmfs run` would refuse this: {refusal}")


def _show(plan: StagePlan) -> None:
    console = out()
    drawn = f"draws {plan.output_px} px" if plan.image_loss_weight else "draws nothing"
    console.print(f"{plan.stage}: {plan.parameters:,} parameters, {plan.trainable:,} trained; sees {plan.image_px} px, {drawn}")
    rows = [(one.name, f"{one.learning_rate:g}", f"{one.weight_decay:g}", f"{one.tensors}", f"{one.parameters:,}") for one in plan.groups]
    rows += [(f"{name}/frozen", "", "", "", f"{count:,}") for name, count in plan.frozen.items()]
    print_table(("group", "rate", "decay", "tensors", "parameters"), rows)
    console.print(f"  start    {plan.start}")
    console.print(
        f"  batch    {plan.global_batch} rows of {plan.row_tokens} tokens = {plan.ranks} ranks x {plan.accumulation} micro-batches x "
        f"{plan.rows_at_once} rows"
    )
    console.print(f"  budget   {plan.steps:,} steps, {plan.warmup_steps:,} of them warm-up; {plan.token_budget:,} tokens, padding included")
    if plan.ema_decay:
        console.print(f"  average  of the weights with decay {plan.ema_decay:g}, which is exported")
    console.print(f"  loss     text {plan.text_loss_weight:g}, pictures {plan.image_loss_weight:g}")
    console.print(f"  mixture  {', '.join(f'{name} {share}' for name, share in shares(plan.mixture).items())}\n")


def shares(mixture: dict[str, Weight]) -> dict[str, str]:
    """What each name has of all rows; its course where one of the weights has one."""
    if any(isinstance(weight, tuple) for weight in mixture.values()):
        return {
            name: " → ".join(f"{weight:g} at step {step}" for step, weight in one) if isinstance(one, tuple) else f"{one:g}"
            for name, one in mixture.items()
        }
    total = sum(weight for weight in mixture.values() if isinstance(weight, float))
    return {name: f"{weight / total:.1%}" for name, weight in mixture.items() if isinstance(weight, float)}
