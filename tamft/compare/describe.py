"""A plan in words."""

from tamft.compare import runs, space
from tamft.compare.arms import optim_args
from tamft.compare.plan import Plan


def describe(plan: Plan) -> str:
    """What will be done, for a reader who has not seen the file."""
    content = plan.content
    select = ", ".join(content["select"].get("tasks", [])) or content["select"]["metric"]
    data = ", ".join(file["name"] for file in content["train"].get("train_file", [])) or content["train"].get("dataset")
    limit = content["train"].get("max_steps")
    length = f"{limit} steps" if limit and limit > 0 else f"{content['train'].get('num_train_epochs', 3)} epochs"
    seeds, controls = content["seeds"], content["controls"]
    lines = [
        f"plan      {content['name']} ({plan.hash[:12]})",
        f"model     {content['model']} @ {content['model_revision'][:16]}",
        f"train     {content['recipe']} on {data}, {length}",
        f"select    {select}",
        f"report    {', '.join(content['report']['tasks'])}",
        f"delta     {content['delta']:g}: smaller differences do not matter",
        f"seeds     {len(seeds['screen'])} to screen, {len(seeds['confirm'])} to confirm",
        f"controls  {', '.join(_controls(controls, content['baseline'])) or 'none'}",
        f"budget    {content['trials']} configurations for each of {len(plan.arms)} arms",
    ]
    for name, arm in plan.arms.items():
        fixed = f" ({optim_args(arm.args)})" if arm.args else ""
        optim = f" = {arm.optim}" if arm.optim != name else ""
        axes = "; ".join(
            f"{key} {'from {} to {}'.format(*axis.log) if axis.log else ', '.join(map(str, axis.values or []))}"
            for key, axis in arm.space.items()
        )
        last = "" if name in content["confirm"] else " (screened only)"
        lines.append(f"  {name}{optim}{fixed}: {axes}{last}")
    kind = (
        "grid" if all(space.is_grid(arm.space) for arm in plan.arms.values()) else "Sobol points, scrambled by the hash"
    )
    screened = len(runs.screen(plan))
    lines.append(f"runs      {screened} to screen ({kind}), {runs.count_confirm(plan)} to confirm, and the base model")
    return "\n".join(lines)


def _controls(controls: dict[str, object], baseline: str) -> list[str]:
    said = [f"A/A ({baseline} against itself on further seeds)"] if controls["aa"] else []
    return said + ([f"frozen torque ({controls['frozen_torque']}, gamma=1)"] if controls["frozen_torque"] else [])
