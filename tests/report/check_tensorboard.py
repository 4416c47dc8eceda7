#!/usr/bin/env python3
"""Runs qat_dist, and compares what TensorBoard itself answers about its event files with the run's own records.

  python3 -m venv /tmp/venv && /tmp/venv/bin/pip install tensorboard
  /tmp/venv/bin/python tests/report/check_tensorboard.py build/qat_dist [--keep FOLDER]

A tiny run of 20 steps on CPUs, and the same run taken up again from the checkpoint after step 10. TensorBoard reads
both in both of its ways (--load_fast). Exits with 1 if a value, a step or a tag is not what it should be.
"""
import argparse
import json
import math
import pathlib
import socket
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
failures = []


def check(what, good, figure=""):
    print(f"{'ok  ' if good else 'FAIL'} {what}{': ' if figure else ''}{figure}", flush=True)
    if not good:
        failures.append(what)


def train(program, folder, *sets):
    command = [program, "--config", ROOT / "configs/tiny_cpu.json", "--set", f"run.dir={folder}"]
    for item in ("checkpoint.every=5", "eval.every=5", "report.histograms_every=10", "report.layers_every=5", *sets):
        command += ["--set", item]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"exit code {done.returncode}\n{done.stdout}{done.stderr}")


def records(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


class TensorBoard:
    def __init__(self, logdir, fast):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.url = f"http://127.0.0.1:{free.getsockname()[1]}"
        port = self.url.rsplit(":", 1)[1]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tensorboard.main", "--logdir", str(logdir), "--port", port,
             "--load_fast", "true" if fast else "false", "--samples_per_plugin", "scalars=100000,histograms=1000"],
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()

    def get(self, path, **query):
        with urllib.request.urlopen(f"{self.url}/data/plugin/{path}?{urllib.parse.urlencode(query)}", timeout=10) as answer:
            return json.loads(answer.read())

    def wait_for(self, run, tag):
        end = time.time() + 120
        while time.time() < end:
            if self.process.poll() is not None:
                sys.exit(f"tensorboard ended: {self.process.stderr.read()}")
            try:
                if tag in self.get("scalars/tags").get(run, {}):
                    return
            except OSError:
                pass
            time.sleep(0.5)
        sys.exit(f"tensorboard does not show {tag} of {run} within two minutes")


def close(a, b):
    return math.isclose(a, b, rel_tol=1e-6, abs_tol=1e-9)  # TensorBoard's scalars are fp32


def compare(board, run, folder, what):
    def curve(tag):  # [(step, value)]
        return [(step, value) for _, step, value in board.get("scalars/scalars", run=run, tag=tag)]

    metrics = records(folder / "metrics.jsonl")
    for tag, key in (("loss/all", "loss"), ("train/learning_rate", "lr"), ("train/grad_norm", "grad_norm"),
                     ("bits/weights", "weight_bits"), ("speed/tokens_per_s", "tokens_per_s")):
        mine = [(line["step"], line[key]) for line in metrics]
        theirs = curve(tag)
        check(f"{what}: {tag}", len(mine) == len(theirs) and
              all(a[0] == b[0] and close(a[1], b[1]) for a, b in zip(mine, theirs)), f"{len(theirs)} steps")
    for bits in sorted({line["weight_bits"] for line in metrics}):
        mine = [(line["step"], line["loss"]) for line in metrics if line["weight_bits"] == bits]
        theirs = curve(f"loss/{bits}bit")
        check(f"{what}: loss/{bits}bit", [a[0] for a in mine] == [b[0] for b in theirs] and
              all(close(a[1], b[1]) for a, b in zip(mine, theirs)), f"{len(theirs)} steps")
    held_out = records(folder / "eval.jsonl")
    for bits in sorted({line["bits"] for line in held_out}):
        mine = [(line["step"], line["perplexity"]) for line in held_out if line["bits"] == bits]
        theirs = curve(f"perplexity/{bits}bit")
        check(f"{what}: perplexity/{bits}bit", [a[0] for a in mine] == [b[0] for b in theirs] and
              all(close(a[1], b[1]) for a, b in zip(mine, theirs)), str([b[0] for b in theirs]))
    layers = records(folder / "layers.jsonl")
    line = layers[-1]
    name = line["layers"][0]["name"]
    tag = f"grad_norm/{name}/{line['precision']}bit"
    theirs = curve(tag)
    check(f"{what}: {tag}", theirs and theirs[-1][0] == line["step"] and
          close(theirs[-1][1], line["layers"][0]["grad_norm"]))
    tags = board.get("histograms/tags").get(run, {})
    check(f"{what}: histograms", f"weights/{name}" in tags and any(t.startswith(f"codes/{name}/") for t in tags) and
          any(t.startswith(f"scales/{name}/") for t in tags), f"{len(tags)} tags")
    history = board.get("histograms/histograms", run=run, tag=f"weights/{name}")
    counts = [sum(bucket[2] for bucket in buckets) for _, _, buckets in history]
    check(f"{what}: weights/{name} counts every weight at each step", counts and len(set(map(round, counts))) == 1,
          str(counts))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("--keep", help="work here, and leave it")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        root = pathlib.Path(arguments.keep or scratch)
        train(arguments.program, root / "whole")
        train(arguments.program, root / "resumed")
        # Another configuration, or the run would be finished and only print its table.
        train(arguments.program, root / "resumed", f"run.resume={root}/resumed/checkpoints/step_00000010",
              "checkpoint.keep=5")
        check("the resumed run has two event files", len(list((root / "resumed/tensorboard").iterdir())) == 2)
        for fast in (False, True):
            with TensorBoard(root, fast) as board:
                board.wait_for("whole/tensorboard", "loss/all")
                board.wait_for("resumed/tensorboard", "loss/all")
                time.sleep(2)
                for name in ("whole", "resumed"):
                    compare(board, f"{name}/tensorboard", root / name, f"{name}, load_fast {fast}")
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
