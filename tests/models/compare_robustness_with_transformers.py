#!/usr/bin/env python3
"""Compares `qat_dist eval --robustness` with gradients of Hugging Face's transformers, through embeddings that move.

  python3 -m venv /tmp/venv && /tmp/venv/bin/pip install torch transformers safetensors
  /tmp/venv/bin/python tests/models/compare_robustness_with_transformers.py build/qat_dist

A tiny model is trained on CPUs for some seconds and exported; both count next tokens that are right: as they are, and
one step along the sign of the loss's gradient (FGSM) away. Steps in which draws play no part must agree, but for one
token in 200 where rounding decides; PGD, which has other draws here, within 1 % of the tokens. Exits with 1 otherwise.
"""
import argparse
import json
import pathlib
import sys
import tempfile

import torch
import transformers

from checks import check, failures, run

ROOT = pathlib.Path(__file__).resolve().parents[2]
LENGTH, TOKENS, STEPS = 32, 3200, 10


def right(model, embeddings, ids):
    with torch.no_grad():
        logits = model(inputs_embeds=embeddings).logits[:, :-1]
    return int((logits.argmax(-1) == ids[:, 1:]).sum())


def gradient(model, embeddings, ids):
    moved = embeddings.detach().requires_grad_(True)
    logits = model(inputs_embeds=moved).logits[:, :-1]
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
    return torch.autograd.grad(loss, moved)[0]


def theirs(model, ids, epsilon):
    clean = model.transformer.wte(ids).detach()
    fgsm = clean + epsilon * gradient(model, clean, ids).sign()
    torch.manual_seed(1)
    moved = (2 * torch.rand_like(clean) - 1) * epsilon
    for _ in range(STEPS):
        moved = (moved + 2 * epsilon / STEPS * gradient(model, clean + moved, ids).sign()).clamp(-epsilon, epsilon)
    return {"clean": right(model, clean, ids), "fgsm": right(model, fgsm, ids), "pgd": right(model, clean + moved, ids)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", type=lambda text: pathlib.Path(text).resolve())
    program = parser.parse_args().program
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as scratch:
        work = pathlib.Path(scratch)
        text = b"".join(path.read_bytes() for path in sorted((ROOT / "docs").glob("*.md")))
        (work / "text.txt").write_bytes(text)
        run(program, "tokenize", work / "text.txt", "-o", work / "tokens")
        run(program, "--config", ROOT / "configs/tiny_cpu.json", "--set", f"run.dir={work / 'run'}", "--set",
            f'data.train=["{work / "tokens_train_000.bin"}"]', "--set", f'data.val=["{work / "tokens_val.bin"}"]',
            "--set", "model.vocab_size=257", "--set", "quant.kv_bits=32", "--set", "train.steps=300", "--set",
            "eval.bits=[32]", "--set", "eval.max_tokens=0")
        run(program, "export", "--checkpoint", work / "run", "-o", work / "exported", "--bits", 32)
        model = transformers.GPT2LMHeadModel.from_pretrained(work / "exported", torch_dtype=torch.float32).eval()
        held_out = torch.frombuffer(bytearray((work / "tokens_val.bin").read_bytes()[1024:]), dtype=torch.int16).long()
        ids = torch.stack([held_out[begin:begin + LENGTH + 1] for begin in range(0, TOKENS, LENGTH)])
        for epsilon in (0.01, 0.05):
            run(program, "eval", "--checkpoint", work / "run", "--bits", 32, "--robustness", "--robustness-epsilon",
                epsilon, "--robustness-tokens", TOKENS, "--robustness-steps", STEPS, "--output", work / f"out {epsilon}")
            found = json.loads((work / f"out {epsilon}/report.json").read_text())["widths"][0]["robustness"]
            check(f"tokens scored, epsilon {epsilon}", found["tokens"] == TOKENS, found["tokens"])
            ours = {"clean": found["clean_accuracy"], **found["accuracy"]}
            for name, count in theirs(model, ids, epsilon).items():
                mine, allowed = round(ours[name] * TOKENS), TOKENS // (100 if name == "pgd" else 200)
                check(f"  {name}", abs(mine - count) <= allowed, f"{mine} and {count} right")
            check("  attacks do harm", ours["pgd"] < ours["clean"] and ours["fgsm"] < ours["noise"])
    print(f"torch {torch.__version__}, transformers {transformers.__version__}: "
          f"{'all good' if not failures else str(len(failures)) + ' FAILED'}")
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
