"""Exported networks in transformers. Importing this package registers them; they need no remote
code.

import flashnas.exporting.transformers
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained("exported/")
"""

from transformers import AutoConfig, AutoModelForCausalLM

from flashnas.exporting.transformers.cache import FlashnasCache
from flashnas.exporting.transformers.modeling import FlashnasConfig, FlashnasForCausalLM

AutoConfig.register(FlashnasConfig.model_type, FlashnasConfig, exist_ok=True)
AutoModelForCausalLM.register(FlashnasConfig, FlashnasForCausalLM, exist_ok=True)

__all__ = ["FlashnasCache", "FlashnasConfig", "FlashnasForCausalLM"]
