"""Small models of transformers with random weights, as folders."""

import torch
from networks import write_tokenizer_json

SIZES = {
    "vocab_size": 300,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}
LLAMA_3 = {
    "rope_type": "llama3",
    "rope_theta": 5000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
SMALL_CONVERSION = {
    "calibration": "paper",
    "context": 256,
    "documents": 4,
    "prompts": 2,
    "recall": 0,
    "sets": 6,
    "finalists": 3,
}
MODELS = {
    "llama": {"rms_norm_eps": 1e-2, "tie_word_embeddings": True},
    "llama, biases and scaled positions": {
        "attention_bias": True,
        "mlp_bias": True,
        "rope_parameters": LLAMA_3,
    },
    "qwen2": {"rms_norm_eps": 1e-3},
    "qwen3": {"head_dim": 32, "rms_norm_eps": 1e-2},
    "smollm3": {"no_rope_layer_interval": 2, "pad_token_id": 0},
    "qwen2, windows": {"use_sliding_window": True, "sliding_window": 9, "max_window_layers": 1},
    "qwen3, windows": {"layer_types": ["sliding_attention", "full_attention", "full_attention"]}
    | {"use_sliding_window": True, "sliding_window": 9},
    "smollm3, windows": {"no_rope_layer_interval": 2, "pad_token_id": 0}
    | {"use_sliding_window": True, "sliding_window": 9},
    "lfm2": {"norm_eps": 1e-2, "full_attn_idxs": [1], "block_multiple_of": 16},
}


def random_model(name, folder, **further):
    """A model of transformers with random weights, biases and norms, saved in a folder."""
    import transformers

    kind = name.partition(",")[0]
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(kind, **{**SIZES, **MODELS[name], **further})
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    model.save_pretrained(folder, max_shard_size="100kB")
    return model


def small_llama(folder, layers=6):
    """A folder with a random Llama and a tokenizer."""
    random_model("llama", folder, num_hidden_layers=layers, max_position_embeddings=4096)
    write_tokenizer_json(folder / "tokenizer.json")
    return folder


def write_gguf(kind, model, path, tokenizer, change=lambda writer: None):
    """A model of transformers as llama.cpp's converter names it. change: called with the writer
    before it writes."""
    import gguf

    from flashnas.families.gguf.vocabulary import vocabulary
    from flashnas.families.load_pretrained import load_pretrained
    from flashnas.families.pretrained import PIECES

    network = load_pretrained(model).network
    heads = network.architecture.operators[0]
    writer = gguf.GGUFWriter(path, kind)
    writer.add_block_count(len(network.layers) // 2)
    writer.add_context_length(512)
    writer.add_embedding_length(network.architecture.hidden)
    writer.add_feed_forward_length(network.architecture.operators[1].intermediate)
    writer.add_head_count(heads.heads)
    writer.add_head_count_kv(heads.kv_heads)
    writer.add_key_length(heads.head_dim)
    writer.add_rope_dimension_count(heads.head_dim)
    writer.add_rope_freq_base(heads.rope_theta)
    writer.add_layer_norm_rms_eps(1e-2)
    vocabulary(tokenizer, 300, 0).write_keys(writer)
    for piece in PIECES[kind][1](network.architecture, 1e-2):
        writer.add_tensor(piece.name, piece.of(network.state_dict()).numpy())
    change(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
