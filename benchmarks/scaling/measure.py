"""Runs of the program, in turn, and what came out of them: a JSON line each in measurements.jsonl."""
import json
import os
import shutil
import statistics
import subprocess
import time

import points


def median(values):
    return statistics.median(values) if values else None


class Measurements:
    """The lines of an output folder. A line that a killed run left half written is dropped."""

    def __init__(self, folder):
        self.path = folder / "measurements.jsonl"
        self.lines = []
        if not self.path.exists():
            return
        text = self.path.read_text(encoding="utf-8")
        whole = text[: text.rfind("\n") + 1]
        self.lines = [json.loads(line) for line in whole.splitlines()]
        if whole != text:
            self.path.write_text(whole, encoding="utf-8")

    def add(self, line):
        self.lines.append(line)
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def of(self, work):
        return [line for line in self.lines if line["work"] == work and "failed" not in line]

    def failure(self, work):
        found = [line["failed"] for line in self.lines if line["work"] == work and "failed" in line]
        return found[-1] if found and not self.of(work) else ""

    def other_program(self, facts):
        """Whether lines are of another program or device than is here; its name."""
        for line in self.lines:
            theirs, ours = (line["device"], line["program"]), (facts["device"], facts["program"])
            if theirs != ours:
                return f"{theirs[1]} on {theirs[0]}, and this is {ours[1]} on {ours[0]}"
        return ""


def steps_of(folder):
    return [json.loads(text) for text in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def gpu_times(lines):
    """Of a one-rank work's lines, the milliseconds of each GPU that did it by itself, medians over the repetitions."""
    of_each = [line.get("gpu_step_ms", [line["step_ms"]]) for line in lines]
    return [median(times) for times in zip(*of_each)]


def ended(folders, commands, gpus):
    """The commands' ends, when all are there; they run at the same time. gpus: of each, or nothing."""
    running = []
    for folder, command in zip(folders, commands):
        shutil.rmtree(folder, ignore_errors=True)
        environment = {**os.environ, "CUDA_VISIBLE_DEVICES": gpus[len(running)]} if gpus else None
        running.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                                        env=environment))
    return [(one.communicate()[0], one.returncode) for one in running]


def run(machine, point, repeat, gpus):
    """One line: the medians of the run's steps behind its warm-up. gpus: one rank's work is done on each of these at
    the same time, by itself; what the others took is in gpu_step_ms."""
    gpus = gpus if point.ranks == 1 and point.figure != points.BITS_FIGURE else []
    folders = [machine.out / f"run{one or ''}" for one in range(max(1, len(gpus)))]
    folder = folders[0]
    command = machine.train_command(point, folder)
    model = points.models(machine.cuda)[point.model]
    line = {
        "work": points.work(point), "repeat": repeat, **machine.facts, "ranks": point.ranks, "data_parallel": point.dp,
        "stages": point.pp, "model": point.model, "batch": point.batch, "micro_batch": point.micro,
        "sequence": model.sequence, "bits": point.bits, "wire": point.wire,
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "command": command,
    }
    begin = time.monotonic()
    all_ended = ended(folders, [machine.train_command(point, one) for one in folders], gpus)
    line["run_seconds"] = round(time.monotonic() - begin, 2)
    for gpu, (said, code) in enumerate(all_ended):
        if code != 0:
            last = [text for text in said.splitlines() if text.strip()][-3:]
            where = f"GPU {gpus[gpu]}: " if len(gpus) > 1 else ""
            return {**line, "failed": f"{where}exit code {code}: {' / '.join(last)}"[:500]}
    steps = steps_of(folder)
    timed = steps[model.warm_up:]
    if len(gpus) > 1:
        line["gpu_step_ms"] = [median([step["step_ms"] for step in steps_of(one)[model.warm_up:]]) for one in folders]
    wire = [step["wire"] for step in timed if "wire" in step]
    step_ms = median([step["step_ms"] for step in timed])
    line.update(
        step_ms=step_ms, step_ms_least=min(step["step_ms"] for step in timed),
        step_ms_most=max(step["step_ms"] for step in timed), steps_timed=len(timed),
        tokens_per_s=point.batch * model.sequence / step_ms * 1e3,
        gradient_bytes=median([one["bytes"] for one in wire]) or 0,
        weight_bytes=median([one["weight_bytes"] for one in wire]) or 0,
        exposed_ms=median([one["exposed_ms"] for one in wire]) or 0.0,
    )
    if timed[-1].get("memory"):
        line["memory_bytes"] = timed[-1]["memory"]
    if point.figure == points.BITS_FIGURE:
        line["losses"] = [[step["loss"], step["grad_norm"]] for step in steps]
    for one in folders:
        shutil.rmtree(one)
    return line


def measure(machine, found, works, counts, repeats, seconds, say):
    """Round after round all that is missing, until it is there or the time is over. False: a run failed."""
    end = time.monotonic() + seconds if seconds else None
    well = True
    gpus = machine.alone(counts)
    for repeat in range(repeats):
        for work, point in works.items():
            if machine.lacks(point.ranks) or len(found.of(work)) > repeat:
                continue
            if point.figure == points.BITS_FIGURE and found.of(work):
                continue  # the same again would say nothing new
            if end and time.monotonic() > end:
                say(f"{seconds:g} seconds are over: the same command goes on")
                return well
            machine.measure_links(point.ranks)
            line = run(machine, point, repeat, gpus)
            found.add(line)
            well = well and "failed" not in line
            say(f"{work}: " + (line.get("failed") or f"{line['step_ms']:.2f} ms, {line['tokens_per_s']:,.0f} tokens/s"))
    return well
