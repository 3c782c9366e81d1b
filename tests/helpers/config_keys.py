"""Keys of a configuration file, which have no flag."""

import yaml


def with_keys(folder, **keys):
    """The words that give these keys to a command, by a file in the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "keys.yaml"
    path.write_text(yaml.safe_dump(keys))
    return ["--config", str(path)]
