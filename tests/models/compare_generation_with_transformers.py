#!/usr/bin/env python3
"""Compares the texts of `qat_dist generate` with those of transformers' generate, token by token.

  python3 -m venv /tmp/venv && /tmp/venv/bin/pip install torch transformers safetensors
  /tmp/venv/bin/python tests/models/compare_generation_with_transformers.py build/qat_dist TOKENIZER [--keep FOLDER]

TOKENIZER is a folder with GPT-2's vocab.json and merges.txt. Nothing is downloaded: models have random weights, and the
real vocabulary. Greedy texts, in fp32: of prompts one by one and in one batch of different lengths (which transformers
pads at the left), with and without the cache, on one rank and on two, with a penalty of repetition, with an end of text;
and of a run's model at 4 and 8 bits of weights, which is exported for transformers. Exits with 1 if a token differs
where the likeliest two are not all but equal (logits within 1e-4 of each other).
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
NEW_TOKENS = 48
PROMPTS = ["The ship", "In the year 1801, two men walked along the river and", "Once", "def main():\n    return",
           "\"What is it?\" she asked. \"It is", "Größe und Maß: 日本", "a a a a a a a a a a a a a a a a", " "]
def random_model(**changes):
    torch.manual_seed(3)
    sizes = {"n_layer": 3, "n_head": 4, "n_embd": 96, "n_positions": 128, "vocab_size": 50257} | changes
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes)).eval()
    with torch.no_grad():
        for name, value in model.named_parameters():
            value.copy_(torch.randn(value.shape) * (0.1 if value.dim() == 1 else 0.3) + (1 if "ln_" in name and name.endswith("weight") else 0))
    return model


def their_texts(model, prompts, together, end, **more):
    """New tokens of each prompt, without the end of text and what fills up a batch."""
    options = {"do_sample": False, "max_new_tokens": NEW_TOKENS, "pad_token_id": 0 if end is None else end,
               "eos_token_id": end} | more
    texts = []
    for batch in [prompts] if together else [[one] for one in prompts]:
        longest = max(map(len, batch))
        ids = torch.tensor([[0] * (longest - len(one)) + one for one in batch])
        mask = torch.tensor([[0] * (longest - len(one)) + [1] * len(one) for one in batch])
        with torch.no_grad():
            found = model.generate(ids, attention_mask=mask, **options)
        for row in found[:, longest:].tolist():
            texts.append(row[:row.index(end)] if end is not None and end in row else row)
    return texts


def our_texts(program, work, checkpoint, prompts, *more, ranks=1):
    file, out = work / "prompts.jsonl", work / "texts.jsonl"
    file.write_text("".join(json.dumps({"prompt": one}) + "\n" for one in prompts))
    start = [program] if ranks == 1 else [ROOT / "launch/run_local.sh", "-n", ranks, program]
    run(*start, "generate", checkpoint, "--prompts", file, "--max-new-tokens", NEW_TOKENS, "--out", out, "--overwrite",
        "--set", "compute.device=cpu", *more)
    return [json.loads(line)["tokens"] for line in out.read_text().splitlines()]


def nearly_equal(model, prompt, text, i):
    """Whether the likeliest two tokens behind text[:i] are all but equal."""
    with torch.no_grad():
        logits = model(torch.tensor([prompt + text[:i]])).logits[0, -1]
    best = logits.topk(2).values
    return (best[0] - best[1]).item() < 1e-4


def compare(what, model, prompts, ours, theirs, plain=True):
    tokens = doubtful = 0
    for prompt, own, other in zip(prompts, ours, theirs, strict=True):
        same = next((i for i, (a, b) in enumerate(zip(own, other)) if a != b), min(len(own), len(other)))
        tokens += same
        if own == other:
            continue
        if plain and nearly_equal(model, prompt, other, same):
            doubtful += 1
            continue
        check(what, False, f"token {same} of {len(other)}: {own[same:same + 3]} and not {other[same:same + 3]}")
        return
    distinct = len({token for text in ours for token in text})
    check(what, distinct > 1 and doubtful < len(prompts) / 4,
          f"{tokens} tokens equal, {distinct} different ones" + (f"; {doubtful} texts end in a tie" if doubtful else ""))


def compare_imported(program, work, folder):
    tokenizer = transformers.GPT2Tokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"))
    prompts = [tokenizer(text)["input_ids"] for text in PROMPTS]
    model = random_model()
    model.save_pretrained(work / "model")
    checkpoint = work / "checkpoint"
    run(program, "import", work / "model", "-o", checkpoint)
    merges = ("--merges", folder / "merges.txt")
    alone = their_texts(model, prompts, together=False, end=None)
    ignoring = (*merges, "--ignore-end")
    for what, more, ranks in [("one by one", ("--batch-size", 1), 1), ("a batch of different lengths", (), 1),
                              ("without the cache", ("--no-cache",), 1), ("two ranks", ("--batch-size", 3), 2)]:
        compare(f"greedy, {what}", model, prompts, our_texts(program, work, checkpoint, PROMPTS, *ignoring, *more, ranks=ranks), alone)
    compare("greedy, transformers' batch padded at the left", model, prompts,
            our_texts(program, work, checkpoint, PROMPTS, *ignoring), their_texts(model, prompts, together=True, end=None))
    for penalty in (1.3, 2.0):
        compare(f"greedy, repetition penalty {penalty}", model, prompts,
                our_texts(program, work, checkpoint, PROMPTS, *ignoring, "--repetition-penalty", penalty),
                their_texts(model, prompts, together=False, end=None, repetition_penalty=penalty), plain=False)
    # A model that says "end of text" now and then: the row of a token that it says otherwise.
    end, said = 50256, alone[1][5]
    with torch.no_grad():
        table = model.transformer.wte.weight
        table[[end, said]] = table[[said, end]]
    model.save_pretrained(work / "ending")
    run(program, "import", work / "ending", "-o", work / "checkpoint that ends")
    theirs = their_texts(model, prompts, together=False, end=end)
    compare("greedy, up to the end of text", model, prompts,
            our_texts(program, work, work / "checkpoint that ends", PROMPTS, *merges), theirs)
    check("an end of text came", any(len(text) < NEW_TOKENS for text in theirs))


def compare_quantized(program, work):
    """A run whose inputs, keys and values stay as they are: at 4 and 8 bits it is its exported weights."""
    folder = work / "run"
    run(program, "--config", ROOT / "configs/tiny_cpu.json", "--set", f"run.dir={folder}", "--set",
        "quant.activation_bits=32", "--set", "quant.kv_bits=32", "--set", "eval.bits=[32]", "--set", "train.steps=60")
    prompts = [list(text.encode()) for text in PROMPTS]
    for bits in (4, 8, 32):
        out = work / f"exported {bits}"
        run(program, "export", "--checkpoint", folder, "-o", out, *(("--part", "base") if bits == 32 else ()), "--bits", bits)
        model = transformers.GPT2LMHeadModel.from_pretrained(out, torch_dtype=torch.float32).eval()
        compare(f"greedy, a run's model at {bits} bits", model, prompts,
                our_texts(program, work, folder, PROMPTS, "--bits", bits, "--ignore-end"),
                their_texts(model, prompts, together=True, end=None))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", type=lambda text: pathlib.Path(text).resolve())
    parser.add_argument("tokenizer", type=lambda text: pathlib.Path(text).resolve())
    parser.add_argument("--keep", type=pathlib.Path, help="work in this new folder, and leave it")
    arguments = parser.parse_args()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as scratch:
        if arguments.keep:
            arguments.keep.mkdir(parents=True)
        work = (arguments.keep or pathlib.Path(scratch)).resolve()
        compare_imported(arguments.program, work, arguments.tokenizer)
        compare_quantized(arguments.program, work)
    print(f"torch {torch.__version__}, transformers {transformers.__version__}: "
          f"{'all good' if not failures else str(len(failures)) + ' FAILED'}")
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
