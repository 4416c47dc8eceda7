"""What is measured: series of points over the number of ranks, and the settings of the program for each."""
from dataclasses import dataclass, replace

BITS_FIGURE = "bits"  # whose points are compared for equal losses, not for speed


@dataclass(frozen=True)
class Model:
    preset: str
    layers: int  # at least one for every stage
    sequence: int
    batches: tuple  # sequences of a rank and step in data-parallel series, each one pass
    micro: int  # sequences of a pass where a step has several
    piped: int  # sequences of a rank and step in pipelines
    steps: int
    warm_up: int  # of them, that are not counted


GPU_MODELS = {
    "124M": Model("gpt2", 12, 1024, (64, 8), 8, 64, 20, 5),
    "350M": Model("gpt2-medium", 24, 1024, (32,), 8, 64, 14, 4),
    "1.5B": Model("gpt2-xl", 48, 1024, (16,), 8, 64, 9, 3),
}
CPU_MODELS = {
    "micro": Model("micro", 4, 128, (8,), 2, 8, 10, 3),
    "nano": Model("nano", 2, 32, (4,), 1, 4, 8, 3),
}


@dataclass(frozen=True)
class Point:
    """One run's work. batch: sequences of a step, over all ranks; micro: of a pass."""

    series: str
    figure: str
    model: str
    dp: int
    pp: int
    batch: int
    micro: int
    bits: int = 8
    wire: str = "fp32"
    strong: bool = False

    @property
    def ranks(self):
        return self.dp * self.pp

    @property
    def grid(self):
        return f"{self.dp} x {self.pp}"

    def alone(self):
        """The same replica's work on one rank, without stages: what a prediction starts from."""
        return replace(self, dp=1, pp=1, batch=self.batch // self.dp)


def precision(bits):
    return "bf16" if bits == 32 else f"{bits} bits"


def models(cuda):
    return GPU_MODELS if cuda else CPU_MODELS


def settings(point, cuda):
    """key=value, for the run and for its plan alike."""
    model = models(cuda)[point.model]
    widths = "[8,32]" if point.bits == 32 else f"[{point.bits},32]"
    out = [
        f"model.preset={model.preset}",
        f"data.sequence_length={model.sequence}",
        'data.train=["builtin"]',
        'data.val=["builtin"]',
        f"train.batch_size={point.batch}",
        f"train.micro_batch_size={point.micro}",
        f"train.steps={model.steps}",
        f"quant.widths={widths}",
        "precision.cycles=1",
        f"comm.wire={point.wire}",
        f"parallel.pipeline={point.pp}",
        "lr.warmup_steps=2",
        "eval.every=0",
        "eval.bits=[8]" if point.bits == 32 else f"eval.bits=[{point.bits}]",
        "eval.max_tokens=1024",
        "checkpoint.every=0",
        "report.tensorboard=false",
    ]
    if point.pp > 1 and point.wire in ("int8", "int4"):  # what codes do not carry is kept for models in one piece
        out += ["comm.error_feedback=false"]
    if not cuda:
        out += ["compute.device=cpu", "parallel.threads_per_rank=1"]
    if point.figure == BITS_FIGURE:  # every mechanism that a run of this project has, as it is meant to be used
        out += ["precision.min_bits=4", "precision.max_bits=8", "quant.widths=[4,5,6,7,8,32]", "eval.bits=[8]"]
        return out + (["compute.attention=repeatable"] if cuda else [])
    out += ["lora.rank=0", "precision.kind=constant", f"precision.max_bits={point.bits}"]
    # Without this a pipeline of many passes keeps a buffer of gradients for each doubling of them.
    return out + (["train.accumulate=running"] if point.batch > point.micro * point.dp else [])


def points(cuda, counts, names=None):
    """All that there is for these numbers of ranks, in order. Precisions, wire formats and bits: of the first model."""
    names = names or list(models(cuda))[: None if cuda else 1]
    out = []
    for name in names:
        out += _of_model(name, models(cuda)[name], counts, everything=name == names[0])
    return out


def _of_model(name, model, counts, everything):
    out = []

    def add(title, figure, ranks, pp, batch_of, micro_of, **more):
        """pp: stages, or "all" ranks. Numbers of ranks that the stages, layers or sequences do not fit are left out."""
        for count in ranks:
            stages = count if pp == "all" else pp
            if count % stages != 0 or stages > model.layers:
                continue
            replicas, batch, micro = count // stages, batch_of(count), micro_of(count)
            if batch % (micro * replicas) == 0:
                out.append(Point(f"{title}: {name}", figure, name, replicas, stages, batch, micro, **more))

    def same(value):
        return lambda count: value

    def a_rank(sequences):
        return lambda count: sequences * count

    several = [count for count in counts if count > 1]
    large, small, piped = model.batches[0], model.batches[-1], model.piped
    for each in model.batches:
        add(f"weak, data parallel, {each} sequences a rank", "weak", counts, 1, a_rank(each), same(each))
    add(f"strong, data parallel, {large} sequences", "strong", counts, 1, same(large),
        lambda count: max(1, large // count), strong=True)
    add(f"weak, pipeline, {piped} sequences a rank", "pipeline", counts, "all", a_rank(piped), same(model.micro))
    for stages in (1, 2, 4):
        add(f"weak, {stages} stage{'s' if stages > 1 else ''}, {piped} sequences a rank", "pipeline",
            [count for count in counts if count > stages], stages, a_rank(piped), same(model.micro))
    add(f"strong, pipeline, {2 * piped} sequences", "pipeline", counts, "all", same(2 * piped), same(model.micro),
        strong=True)
    if not everything:
        return out
    for bits in (4, 32):
        add(f"weak, {precision(bits)}, {large} sequences a rank", "precision", counts, 1, a_rank(large), same(large),
            bits=bits)
    for wire in ("bf16", "int8", "int4"):
        add(f"weak, wire {wire}, {small} sequences a rank", "wire", several, 1, a_rank(small), same(small), wire=wire)
    for title, stages in (("data parallel", 1), ("2 stages", 2)):
        add(f"bits, {title}", BITS_FIGURE, counts, stages, same(8 * model.micro), same(model.micro))
    return out


def work(point):
    """What a run of the point does, whatever series it is in. On one replica nothing travels."""
    wire = point.wire if point.dp > 1 else "fp32"
    kind = " bits" if point.figure == BITS_FIGURE else ""
    return (f"{point.model} {point.dp}x{point.pp} batch {point.batch} passes of {point.micro} "
            f"{precision(point.bits)} wire {wire}{kind}")


def one_rank(point):
    """What efficiency is relative to: as much work a rank (weak) or in all (strong), on one rank."""
    batch = point.batch if point.strong else point.batch // point.ranks
    micro = batch if point.batch == point.micro * point.dp else point.micro
    return replace(point, dp=1, pp=1, batch=batch, micro=micro)


def works(chosen):
    """What is to be run, each once: what the points and their predictions are relative to, then the points."""
    fast = [point for point in chosen if point.figure != BITS_FIGURE]
    found = {}
    for point in [one_rank(one) for one in fast] + [one.alone() for one in fast] + list(chosen):
        found.setdefault(work(point), point)
    return found
