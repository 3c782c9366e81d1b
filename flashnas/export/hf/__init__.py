"""Exported networks in transformers: importing this package registers them, no remote code needed.

    import flashnas.export.hf
    from transformers import AutoModelForCausalLM
    model = AutoModelForCausalLM.from_pretrained("exported/")
"""

from transformers import AutoConfig, AutoModelForCausalLM

from flashnas.export.hf.cache import FlashnasCache
from flashnas.export.hf.configuration import FlashnasConfig
from flashnas.export.hf.modeling import FlashnasForCausalLM

AutoConfig.register(FlashnasConfig.model_type, FlashnasConfig, exist_ok=True)
AutoModelForCausalLM.register(FlashnasConfig, FlashnasForCausalLM, exist_ok=True)

__all__ = ["FlashnasCache", "FlashnasConfig", "FlashnasForCausalLM"]
