"""`fn.compare` and `flashnas compare`."""

import json
import re

import pytest

import flashnas as fn
from flashnas.cli.main import main

NOTATION = "1024(vocab=65536): 8x(a(heads=16,kv_heads=8,head_dim=64) f(intermediate=4096))"
CONFIG = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 8,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "vocab_size": 65536,
    "tie_word_embeddings": True,
    "rope_theta": 10000.0,
}
BOTH = ["Qwen3-0.6B", "LFM2-700M"]


def test_the_order_of_two_networks_turns_the_sign_alone():
    (_, one), (_, other) = fn.compare(BOTH).networks, fn.compare(BOTH[::-1]).networks
    assert one["difference"] == pytest.approx(-other["difference"], abs=1e-6)
    assert one["sd"] == pytest.approx(other["sd"])
    assert one["probability"] + other["probability"] == pytest.approx(1)
    for name, nats in one["reasons"].items():
        assert nats == pytest.approx(-other["reasons"][name], abs=1e-6)


def test_a_network_is_equal_to_itself_however_it_is_written(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    forms = [NOTATION, tmp_path / "config.json", fn.Architecture.parse(NOTATION)]
    first, *others = fn.compare(forms, workload="decode-1k").networks
    name = first.pop("name")
    assert name == NOTATION
    assert (first["difference"], first["sd"], first["probability"]) == (0, 0, 0.5)
    for row in others:
        del row["name"]
        assert row == first
    alone = fn.estimate(NOTATION, workload="decode-1k")
    for figure in ("latency_ms", "lower_ms", "memory_gb", "active_params"):
        assert first[figure] == getattr(alone, figure)
    assert first["loads_in"] == alone.loads_in


def test_what_loads_a_model_is_not_claimed_where_its_sizes_alone_are_read(tmp_path, capsys):
    config = tmp_path / "config.json"
    config.write_text(json.dumps({**CONFIG, "model_type": "olmo2", "architectures": []}))
    assert fn.estimate(config).to_dict()["loads_in"] is None
    assert main(["compare", NOTATION, str(config), "--json"]) == 0
    known, sizes = json.loads(capsys.readouterr().out)["networks"]
    assert "vllm" in known["loads_in"]
    assert sizes["loads_in"] is None
    said = str(fn.compare([NOTATION, config]))
    assert "#2 loads in what its model card says: the sizes alone are read\n" in said
    asked = {"as_good_as": str(config), "space": "granite", "workload": "decode-1k"}
    good = fn.search(**asked, out=tmp_path / "run").answer.as_good
    assert good["model"]["loads_in"] is None
    assert good["chosen"]["loads_in"]


def test_the_command_says_what_differs_why_and_what_would_settle_it(capsys):
    words = ["compare", *BOTH, "--workload", "decode-1k", "--train-tokens", "50B"]
    assert main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in found["networks"]] == BOTH
    assert (found["table"], found["workload"], found["train_tokens"]) == (
        "h100_sxm",
        "decode-1k",
        5e10,
    )
    assert main(words) == 0
    text = capsys.readouterr().out
    _, row = found["networks"]
    for words in (
        f"{row['difference']:+.3f} ± {1.645 * row['sd']:.3f} nats per token (90 %)",
        f"lower with probability {row['probability']:.2f}",
        f"size {row['reasons']['size']:+.3f}",
        "#1 loads in run here: vLLM",
        "#2 outside what publications have trained",
    ):
        assert words in text
    assert "experts" not in text


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (BOTH[:1], "ARCH must be two or more; got 1"),
        ([BOTH[0], "Qwen9"], "network 2: 'Qwen9' is not a preset"),
        ([*BOTH, "65536: 90x(a f)"], "network 3: "),
        ([*BOTH, "--table", "nowhere"], "nowhere"),
    ],
)
def test_what_cannot_be_compared_is_one_line(words, says, refused):
    assert says in refused(["compare", *words])


SERVED = "batch=8,prompt=4096,generated=512"


def test_users_at_once_and_a_second_turn_are_printed_and_bound_a_search(tmp_path, capsys):
    """Of a transformer fewer fit than of a hybrid of its size, and keys and values in fp8 make room."""
    assert main(["compare", *BOTH, "--workload", SERVED]) == 0
    said = capsys.readouterr().out
    one, other = fn.compare(BOTH, workload=SERVED).networks
    for place, row in enumerate((one, other), 1):
        assert f"#{place} sequences {row['sequences']:,.0f}, block_tokens 16, turn2_ttft_ms" in said
    assert one["sequences"] < other["sequences"]
    narrow = fn.estimate(BOTH[0], workload=f"{SERVED},kv_dtype=fp8")
    assert narrow.sequences == pytest.approx(2 * one["sequences"], rel=0.05)
    assert "kv_dtype fp8 counts in memory and pages" in str(narrow)
    asked = {"space": "qwen3_5", "params": "1B..1.2B", "workload": SERVED}
    limits = {"sequences": 600, "turn2_ttft_ms": 30}
    run = fn.search(**asked, budgets=limits, out=tmp_path / "run")
    said = " ".join(str(run).split())
    assert "turn2_ttft_ms" in said
    assert f"serving users at once {run.recommended.sequences:,.0f}, second turn " in said
    assert re.search(r", in pages as vLLM has them; transformer(?! with)", said)
    for trial in (*run.front, run.recommended):
        assert trial.sequences >= 600
        assert trial.turn2_ttft_ms <= 30
        found = fn.estimate(trial.notation, workload=SERVED)
        for name in limits:
            assert getattr(trial, name) == pytest.approx(getattr(found, name))
