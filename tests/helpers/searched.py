"""Networks of the shapes that a search of a family looks at."""

from flashnas.architecture import Architecture


def searched(family, size, width, *, groups=1, vocab=300):
    """A network with `groups` groups of layers, each with one attention, of an entry of `sizes`."""
    search = family.search
    *others, attention = size.mixers
    every = search.every[0]
    place = every - 1 if search.last else every // 2
    mixers = [attention if n == place else others[0] for n in range(every)] * groups
    head = f"{width}(vocab={vocab}{'' if search.tied else ',tied=false'}): "
    ffn = search.ffn[0].spec(width)
    return Architecture.parse(head + " ".join(f"{mixer} {ffn}" for mixer in mixers))
