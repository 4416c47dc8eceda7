#!/usr/bin/env python3
"""Scores multiple-choice tasks with Hugging Face's transformers, and compares every log-likelihood with qat_dist's.

  python3 -m venv /tmp/venv && /tmp/venv/bin/pip install torch transformers tokenizers
  /tmp/venv/bin/python tests/models/compare_tasks_with_transformers.py build/qat_dist --tasks FOLDER --tokenizer FOLDER

--tasks has the .jsonl files, --tokenizer GPT-2's merges.txt and vocab.json. The model is a random GPT-2 with that
vocabulary, whose 256 positions are too few for some prompts, or --checkpoint's. Prompts, tokens, truncation and sums
are made here anew, as EleutherAI's lm-evaluation-harness makes them, in fp32 at 32 bits, of the first --items of every
file. Exits with 1 if a log-likelihood differs by more than 1e-3, or an accuracy at all.
"""
import argparse
import collections
import json
import math
import pathlib
import re
import subprocess
import sys
import tempfile

import tokenizers
import torch
import transformers

LIMIT = 1e-3


def run(*arguments):
    done = subprocess.run([str(a) for a in arguments], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, arguments))}\nexit code {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout + done.stderr


def preprocess(text):
    """lm_eval/tasks/hellaswag/utils.py"""
    text = text.strip().replace(" [title]", ". ")
    return re.sub("\\[.*?\\]", "", text).replace("  ", " ")


def choices_of(doc):
    """[(context, continuation)] and the index of the right one: lm_eval/tasks, target_delimiter " "."""
    if "passage" in doc:
        context = f"{doc['passage']}\nQuestion: {doc['question']}?\nAnswer:"
        return [(context, " no"), (context, " yes")], int(doc["answer"])
    if "endings" in doc:
        if "ctx_a" in doc:
            context = doc["activity_label"] + ": " + doc["ctx_a"] + " " + doc["ctx_b"].capitalize()
        else:
            context = doc["ctx"]
        return [(preprocess(context), " " + preprocess(e)) for e in doc["endings"]], int(doc["label"])
    if "sentence" in doc:
        gap = doc["sentence"].index("_")
        rest = " " + doc["sentence"][gap + 1:].strip()
        return [(doc["sentence"][:gap] + o, rest) for o in (doc["option1"], doc["option2"])], int(doc["answer"]) - 1
    if "goal" in doc:
        context = f"Question: {doc['goal']}\nAnswer:"
        return [(context, " " + doc["sol1"]), (context, " " + doc["sol2"])], int(doc["label"])
    context = doc["question_stem"] if "question_stem" in doc else f"Question: {doc['question']}\nAnswer:"
    right = doc["choices"]["label"].index(doc["answerKey"].strip())
    return [(context, " " + text) for text in doc["choices"]["text"]], right


def encode_pair(tokenizer, context, continuation):
    """lm_eval/api/model.py, TemplateLM._encode_pair"""
    spaces = len(context) - len(context.rstrip())
    if spaces > 0:
        continuation = context[-spaces:] + continuation
        context = context[:-spaces]
    whole = tokenizer.encode(context + continuation).ids
    return whole, len(whole) - len(tokenizer.encode(context).ids)


@torch.no_grad()
def log_likelihood(model, tokens, scored):
    tokens = tokens[-(model.config.n_positions + 1):]
    logits = model(torch.tensor([tokens[:-1]])).logits[0, -scored:].float()
    return torch.log_softmax(logits, -1).gather(1, torch.tensor(tokens[-scored:])[:, None]).double().sum().item()


def random_gpt2(folder):
    torch.manual_seed(1)
    config = transformers.GPT2Config(n_layer=2, n_head=4, n_embd=64, n_positions=256, vocab_size=50257,
                                     bos_token_id=50256, eos_token_id=50256)
    model = transformers.GPT2LMHeadModel(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(0, 0.1)
            elif ".ln_" in name:
                parameter.normal_(1, 0.2)
            else:
                parameter.mul_(3)
    model.save_pretrained(folder)


def best(scores):
    return max(range(len(scores)), key=lambda i: scores[i])  # ties: the first


def compare_file(path, ours, model, tokenizer, items):
    docs = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line.strip()][:items]
    assert len(docs) == len(ours), (path, len(docs), len(ours))
    worst, where, likelihoods = 0.0, "", 0
    right = collections.Counter()
    for doc, our in zip(docs, ours):
        choices, answer = choices_of(doc)
        found = []
        for (context, continuation), our_choice in zip(choices, our["choices"], strict=True):
            tokens, scored = encode_pair(tokenizer, context, continuation)
            found.append(log_likelihood(model, tokens, scored))
            likelihoods += 1
            difference = abs(found[-1] - our_choice["log_likelihood"])
            if not difference <= worst:
                worst, where = difference, f"line {our['line']}: {found[-1]:.5f} and {our_choice['log_likelihood']:.5f}"
        right["theirs, sum"] += best(found) == answer
        right["theirs, byte"] += best([f / len(c[1][1:].encode()) for f, c in zip(found, choices)]) == answer
        right["ours, sum"] += our["likeliest_by_sum"] == our["answer"]
        right["ours, byte"] += our["likeliest_by_byte"] == our["answer"]
    same = all(right[f"theirs, {rule}"] == right[f"ours, {rule}"] for rule in ("sum", "byte"))
    good = worst <= LIMIT and same
    print(f"{'ok  ' if good else 'FAIL'} {path.stem}: {len(docs)} items, {likelihoods} log-likelihoods, largest difference "
          f"{worst:.1e} ({where}), right by sum {right['ours, sum']} and {right['theirs, sum']}, by byte "
          f"{right['ours, byte']} and {right['theirs, byte']}", flush=True)
    return good


@torch.no_grad()
def sliding_perplexity(model, tokens, length, stride):
    """Every token but the first once, with the context that its window has."""
    nll, scored_to = 0.0, 1
    for begin in range(0, len(tokens), stride):
        end = min(begin + length + 1, len(tokens))
        if scored_to >= end:
            break
        logits = model(torch.tensor([tokens[begin:end - 1]])).logits[0].float()
        found = torch.nn.functional.cross_entropy(logits, torch.tensor(tokens[begin + 1:end]), reduction="none")
        nll += found[scored_to - 1 - begin:].double().sum().item()
        scored_to = end
    return math.exp(nll / (len(tokens) - 1))


def compare_text(path, qat, model, tokenizer, work):
    length, stride, count = 128, 64, 3000
    qat("--text", f"mine={path}", "--output", work / "text", "--set", f"data.sequence_length={length}", "--set",
        f"eval.stride={stride}", "--text-tokens", count)
    ours = json.loads((work / "text/report.json").read_text())["widths"][0]["texts"]["mine"]
    tokens = tokenizer.encode(path.read_text(encoding="utf-8")).ids[:count]
    theirs = sliding_perplexity(model, tokens, length, stride)
    difference = abs(theirs - ours["perplexity"]) / theirs
    good = difference <= LIMIT and ours["tokens_scored"] == len(tokens) - 1
    print(f"{'ok  ' if good else 'FAIL'} {path.name}: perplexity {ours['perplexity']:.6g} and {theirs:.6g} over "
          f"{ours['tokens_scored']} tokens, relative difference {difference:.1e}", flush=True)
    return good


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", type=lambda text: pathlib.Path(text).resolve())
    parser.add_argument("--tasks", type=pathlib.Path, required=True)
    parser.add_argument("--tokenizer", type=pathlib.Path, required=True)
    parser.add_argument("--checkpoint", type=pathlib.Path, help="in place of a random model: without adapters at 32 bits")
    parser.add_argument("--text", type=pathlib.Path, help="a UTF-8 text")
    parser.add_argument("--items", type=int, default=200, help="of each task")
    parser.add_argument("--set", action="append", default=[], help="for qat_dist eval, e.g. compute.device=cuda")
    arguments = parser.parse_args()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    files = arguments.tokenizer
    tokenizer = tokenizers.ByteLevelBPETokenizer.from_file(str(files / "vocab.json"), str(files / "merges.txt"))
    with tempfile.TemporaryDirectory() as scratch:
        work = pathlib.Path(scratch)
        checkpoint = arguments.checkpoint
        if checkpoint is None:
            checkpoint = work / "checkpoint"
            random_gpt2(work / "random")
            run(arguments.program, "import", work / "random", "-o", checkpoint)
        run(arguments.program, "export", "--checkpoint", checkpoint, "--part", "base", "-o", work / "exported")

        def qat(*more):
            return run(arguments.program, "eval", "--checkpoint", checkpoint, "--bits", 32, "--merges",
                       files / "merges.txt", "--set", "compute.dtype=fp32",
                       *(word for one in arguments.set for word in ("--set", one)), *more)

        qat("--tasks", arguments.tasks, "--limit", arguments.items, "--items", work / "items.jsonl")
        model = transformers.GPT2LMHeadModel.from_pretrained(work / "exported").eval()
        ours = collections.defaultdict(list)
        for line in (work / "items.jsonl").read_text(encoding="utf-8").splitlines():
            ours[json.loads(line)["task"]].append(json.loads(line))
        good = [compare_file(path, ours[path.stem], model, tokenizer, arguments.items)
                for path in sorted(arguments.tasks.glob("*.jsonl"))]
        if arguments.text:
            good.append(compare_text(arguments.text, qat, model, tokenizer, work))
    print(f"torch {torch.__version__}, transformers {transformers.__version__}: "
          f"{'all good' if good and all(good) else 'FAILED'}")
    sys.exit(0 if good and all(good) else 1)


if __name__ == "__main__":
    main()
