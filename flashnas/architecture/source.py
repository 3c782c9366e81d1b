"""What a user may write for ARCH: a preset, a pareto/NN.yaml, a Hugging Face config.json or a
notation.
"""

import os
import shlex
from pathlib import Path

from flashnas.architecture import Architecture, is_notation
from flashnas.architecture.huggingface import architecture_from_hf
from flashnas.architecture.notation import preset_notations
from flashnas.base.documents import read_yaml
from flashnas.base.errors import ArchitectureError, OperatorError
from flashnas.base.foreign import check_regular
from flashnas.base.text import did_you_mean, shown


def load_architecture(source: str | os.PathLike[str], *, whole: bool = False) -> Architecture:
    """The architecture that a text or a path describes.

    Args:
        source (str | os.PathLike): a notation, the name of a preset (in any case), a YAML file with the key
            `architecture` (such as pareto/01.yaml of a run), or a Hugging Face config.json or the
            folder that holds one.
        whole (bool): refuse a config.json of a kind of model of which the sizes alone are read.

    Returns:
        The Architecture.

    Raises:
        ArchitectureError, OperatorError or ConfigError: in one line with place, rule and value.

    Example:
        >>> import flashnas as fn
        >>> fn.load_architecture("Nemotron-Flash-1B").hidden
        2048
    """
    source = os.fspath(source) if isinstance(source, os.PathLike) else source
    if not isinstance(source, str):
        raise ArchitectureError(f"an architecture must be given as text; got {shown(source)}")
    if is_notation(source):
        return Architecture.parse(source)
    by_lower = {name.lower(): name for name in preset_notations()}
    if source.lower() in by_lower:
        return Architecture.parse(preset_notations()[by_lower[source.lower()]])
    path = Path(source)
    if os.path.isdir(os.path.join(source, "pareto")):
        raise ArchitectureError(
            f"{source}: is the folder of a run; name a file of {path / 'pareto'}: flashnas report"
            f" {shlex.quote(source)} says which network it recommends"
        )
    if path.suffix == ".json" or os.path.isdir(source):
        return architecture_from_hf(path, whole=whole)
    # os.path accepts any text, pathlib does not
    if path.suffix in (".yaml", ".yml") or os.path.exists(source):
        data = read_yaml(check_regular(path, ArchitectureError))
        entry = data.get("architecture")
        try:
            if isinstance(entry, str):
                return Architecture.parse(entry)
            if isinstance(entry, dict):
                return Architecture.from_dict(entry)
        except (ArchitectureError, OperatorError) as error:
            raise ArchitectureError(f"{data.place('architecture')}: {error}") from None
        raise ArchitectureError(
            f"{data.place()}: an architecture file needs the key 'architecture'"
            " (a notation or a mapping)"
        )
    raise ArchitectureError(
        f"{shown(source)} is not a preset{did_you_mean(source, preset_notations())}, not a YAML or JSON file"
        f" and not a notation such as '2048: d f m2 f'; presets: {', '.join(preset_notations())}"
    )


def presets() -> dict[str, Architecture]:
    """The public architectures by name."""
    return {name: Architecture.parse(text) for name, text in preset_notations().items()}


def load_known(text: str) -> tuple[Architecture, bool]:
    """`load_architecture`, and whether more than the sizes of a model were read."""
    try:
        return load_architecture(text, whole=True), True
    except ArchitectureError:  # raised again, unless it is that
        return load_architecture(text), False
