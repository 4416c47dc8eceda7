"""Predictions of the cost model, by `qat_dist plan`: from the step that one rank was measured to take, on the slowest
GPU, and from measured or known links. No step on several ranks goes into them."""
import points
from measure import gpu_times


def links_of(machine, count):
    """Where links for so many ranks are taken from: measured here, else on fewer ranks here, else the table of GPUs."""
    for ranks in range(count, 1, -1):
        if machine.rates(ranks).exists():
            return ["--rates", str(machine.rates(ranks))]
    return ["--gpu", machine.facts["device"]] if machine.cuda else []


def predict(machine, found, point):
    """Milliseconds of a step and what it is made of; None: one rank's step was not measured."""
    alone = gpu_times(found.of(points.work(point.alone())))[:point.ranks]
    if not alone:
        return None
    # The others wait for the slowest.
    arguments = ["--ranks", str(point.ranks), "--measured-step", repr(max(alone))]
    planned = machine.plan(points.settings(point, machine.cuda), arguments + links_of(machine, point.ranks))
    step = planned["step"]
    return {"step_ms": step["seconds"] * 1e3, "tokens_per_s": planned["tokens_per_second"],
            "exchange_ms": step["exchange_seconds"] * 1e3, "idle_share": step["idle_share"],
            "gradient_bytes": step["gradient_bytes"], "weight_bytes": step["weight_bytes"]}
