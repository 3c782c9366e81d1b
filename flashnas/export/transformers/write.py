"""`--to hf`: a folder for AutoModelForCausalLM, with flashnas installed and flashnas.export.transformers imported."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import GenerationConfig
from transformers.utils import logging

from flashnas.export.exporter import Exporter, Written
from flashnas.export.source import Source
from flashnas.export.tokenizer import special_ids
from flashnas.export.transformers import FlashnasConfig, FlashnasForCausalLM
from flashnas.export.transformers.parity import check_parity

LOADING = """\
```python
import flashnas.export.transformers  # registers the model with transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("{name}")
tokenizer = AutoTokenizer.from_pretrained("{name}")
```

    python -m flashnas.export.lm_eval run --model hf --model_args pretrained={name} --tasks lambada_openai
"""


class TransformersExporter(Exporter):
    """Configuration and weights that AutoModelForCausalLM reads."""

    title = "transformers and lm-evaluation-harness, with flashnas installed"
    loading = LOADING

    def write(self, folder: Path, source: Source, dtype: torch.dtype, **options: bool | str) -> Written:
        """See Exporter. The source's network is cast to `dtype` and then to float32."""
        ids = special_ids(source.tokenizer)
        network = source.network.to(dtype)
        with torch.device("meta"):
            model = FlashnasForCausalLM(FlashnasConfig.of(source.architecture, dtype=dtype, **ids))
        model.model = network
        model.generation_config = GenerationConfig(**ids)
        verbosity = logging.get_verbosity()
        logging.set_verbosity_error()
        logging.disable_progress_bar()
        try:
            model.save_pretrained(folder)
            return Written(check_parity(folder, network))
        finally:
            logging.set_verbosity(verbosity)
            logging.enable_progress_bar()


EXPORTER = TransformersExporter()
