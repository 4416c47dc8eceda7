"""Predictions for more GPUs than anybody has measured: `qat_dist plan`'s, from steps that one GPU was measured to take
and a network that is given. Writes beyond.md, beyond.svg and beyond.jsonl."""
import json
from dataclasses import dataclass

import draw
import points
from machine import Machine, stop

COUNTS = (16, 32, 64, 128, 256, 512, 1024)
A_NODE = 8
WIRES = ("fp32", "bf16", "int8", "int4")


@dataclass(frozen=True)
class Work:
    """Of each GPU: sequences a step in passes of `micro`, which one H200 took `one_ms` for (benchmarks/README.md)."""

    model: str
    sequences: int
    micro: int
    one_ms: float

    def name(self):
        return f"{self.model}, {self.sequences} sequences a GPU"


DATA_PARALLEL = (Work("124M", 64, 64, 95.5), Work("124M", 8, 8, 16.0), Work("350M", 32, 32, 120.7),
                 Work("1.5B", 64, 8, 1957.0 / 2))
PIPED = (Work("1.5B", 64, 8, 1957.0 / 2),)


def _plan(machine, gpu, network, work, stages, wire, count):
    """A replica of p stages has p GPUs' sequences: one GPU would take p times as long for them."""
    point = points.Point("", "beyond", work.model, count // stages, stages, work.sequences * count, work.micro, 8, wire)
    arguments = ["--gpu", gpu, "--ranks", str(count), "--nodes", str(count // A_NODE), "--network", network,
                 "--measured-step", repr(work.one_ms * stages)]
    planned = machine.plan(points.settings(point, cuda=True), arguments)
    sequence = points.GPU_MODELS[work.model].sequence
    one = work.sequences * sequence / work.one_ms * 1e3
    step = planned["step"]
    return {"model": work.model, "sequences": work.sequences, "micro_batch": work.micro, "gpu": gpu, "network": network,
            "gpus": count, "stages": stages, "wire": wire, "one_gpu_ms": work.one_ms,
            "step_ms": step["seconds"] * 1e3, "exchange_ms": step["exchange_seconds"] * 1e3,
            "hidden_ms": step["hidden_exchange_seconds"] * 1e3, "idle_share": step["idle_share"],
            "tokens_per_s": planned["tokens_per_second"], "efficiency": planned["tokens_per_second"] / (one * count),
            "fits": planned["fits"]}


def _row(cells):
    return "| " + " | ".join(cells) + " |"


def _table(rows):
    head = ["a GPU has", "stages", "wire"] + [str(count) for count in COUNTS[::2]] + [f"tokens/s on {COUNTS[-1]:,}"]
    out = [_row(head), _row(["---"] * len(head))]
    for (work, stages, wire), lines in rows.items():
        shares = [f"{100 * line['efficiency']:.1f} %" for line in lines[::2]]
        out.append(_row([work.name(), str(stages), wire, *shares, f"{lines[-1]['tokens_per_s'] / 1e6:,.1f} M"]))
    return out


def write(gpu, network, out):
    # The plan is for GPUs, wherever it is made.
    machine = Machine(cuda=True, out=out, dry_run=True)
    out.mkdir(parents=True, exist_ok=True)
    rows = {}
    asked = [(work, 1, wire) for work in DATA_PARALLEL for wire in WIRES]
    asked += [(work, stages, wire) for work in PIPED for stages in (2, 4, 8) for wire in ("fp32", "int8")]
    for key in asked:
        rows[key] = [_plan(machine, gpu, network, *key, count) for count in COUNTS]
    lines = [line for of_row in rows.values() for line in of_row]
    if not all(line["fits"] for line in lines):
        stop(f"--gpu {gpu}: some of these runs do not fit into its memory")
    (out / "beyond.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    (out / "beyond.md").write_text("\n".join(_table(rows)) + "\n", encoding="utf-8")
    drawn = [(work, 1, wire) for work in DATA_PARALLEL for wire in ("fp32", "int8")] + [(PIPED[0], 4, "fp32")]
    curves = [draw.Curve(f"{work.name()}, {stages} stage{'s' if stages > 1 else ''}, wire {wire}",
                         predicted=[(line["gpus"], line["efficiency"]) for line in rows[work, stages, wire]])
              for work, stages, wire in drawn]
    title = f"predicted efficiency: {gpu}, nodes of {A_NODE}, network of {network.replace(',', ' GB/s and ')} us a GPU"
    (out / "beyond.svg").write_text(draw.to_svg([draw.Panel(title, curves, low=0.3)], COUNTS, "GPUs"), encoding="utf-8")
    for name in ("beyond.md", "beyond.svg", "beyond.jsonl"):
        print(out / name)
    return 0
