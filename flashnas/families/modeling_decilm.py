"""DeciLM (model type `nemotron-nas`): Llama whose layers may lack attention or their feed-forward
network, and differ in width. Folders of such a network have a copy of this file, which programs
that trust it read: all take its configuration, transformers its model too.
"""

import copy
from typing import Any

from torch import Tensor, nn, zeros_like
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaMLP


class BlockConfig(dict[str, Any]):
    """An entry of `block_configs`, which programs read by attributes."""

    def __getattr__(self, name: str) -> Any:
        if name not in self:
            raise AttributeError(name)
        return BlockConfig(self[name]) if isinstance(self[name], dict) else self[name]


class DeciLMConfig(LlamaConfig):
    """As of Llama, with `block_configs`: of each layer, what its attention and its `ffn` are."""

    model_type = "nemotron-nas"

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "block_configs":
            value = [BlockConfig(block) for block in value]
        super().__setattr__(name, value)


class Nothing(nn.Module):
    """In the place of attention, which has further arguments, or of a feed-forward network."""

    def forward(self, hidden_states: Tensor, **attention: Any) -> Any:
        nothing = zeros_like(hidden_states)
        return (nothing, None) if attention else nothing


class DeciLMForCausalLM(LlamaForCausalLM):
    """Llama with the layers of `block_configs`; attention has as many key heads in all of them."""

    config_class = DeciLMConfig

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        for layer, block in zip(self.model.layers, config.block_configs, strict=True):
            if block.attention.no_op:
                layer.self_attn, layer.input_layernorm = Nothing(), nn.Identity()
            if block.ffn.no_op:
                layer.mlp, layer.post_attention_layernorm = Nothing(), nn.Identity()
                continue
            own, width = copy.copy(config), block.ffn.get("intermediate_size")
            if not width:  # rounded up as NVIDIA's programs do
                width = -(-int(2 * block.ffn.ffn_mult * config.hidden_size / 3) // 256) * 256
            own.intermediate_size = width
            layer.mlp = LlamaMLP(own)
        self.post_init()
