"""YAML files with one wrong entry."""

import yaml
from one_line import one_line


def damage(path, place, *value):
    """Replace the entry at `place`, such as `answer.families.0.hash`; without a value remove it."""
    data = entry = yaml.safe_load(path.read_text())
    *above, last = [int(key) if key.isdigit() else key for key in place.split(".")]
    for key in above:
        entry = entry[key]
    if value:
        (entry[last],) = value
    else:
        del entry[last]
    path.write_text(yaml.safe_dump(data, sort_keys=False))


def check_damage(folder, table, error, read):
    """Each row of the table, file -> place, value and words, is one line with file and words. A
    second file in the name is the one that the line has.
    """
    for files, rows in table.items():
        path, said = folder / files.split()[0], folder / files.split()[-1]
        sound = path.read_text()
        for place, *value, words in rows:
            damage(path, place, *value)
            message = one_line(error, read, folder)
            assert f"{said}:" in message, (place, message)
            assert words in message, (place, message)
            path.write_text(sound)
