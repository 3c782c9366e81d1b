"""What a command accepts as ARCH."""

from cases import cases
from offenders import every
from one_line import one_line

from flashnas.architecture import Architecture
from flashnas.architecture.source import load_architecture, presets
from flashnas.base.errors import FlashnasError


def test_presets_in_any_case():
    assert load_architecture("nemotron-flash-1b") == presets()["Nemotron-Flash-1B"]
    assert load_architecture("128: d f") == Architecture.parse("128: d f")


def test_files_with_a_notation_or_a_mapping(tmp_path):
    architecture = Architecture.parse("128(vocab=512,meta=2): 2x(d f) a(kv_heads=1)")
    text = tmp_path / "notation.yaml"
    text.write_text(f'loss: 3.5\narchitecture: "{architecture}"\n')
    mapping = tmp_path / "mapping.yml"
    mapping.write_text(
        "architecture:\n  hidden: 128\n  vocab: 512\n  meta_tokens: 2\n"
        "  operators: [d, f, d, f, a(kv_heads=1)]\n"
    )
    assert load_architecture(str(text)) == load_architecture(str(mapping)) == architecture


@every(
    case=[
        (
            "loss: 3\n",
            "{path}:1: an architecture file needs the key 'architecture' (a notation or a mapping)",
        ),
        ("a: 1\narchitecture: 3\n", "{path}:1: an architecture file needs the key 'architecture'"),
        ("a: 1\narchitecture: '128: x'\n", "{path}:2: operator must be one of a, swa"),
        (
            "a: 1\narchitecture:\n  hidden: 128\n",
            "{path}:2: architecture needs the key 'operators'",
        ),
    ]
)
def test_bad_file_gets_one_line(tmp_path, case):
    text, message = case
    path = tmp_path / "x.yaml"
    path.write_text(text)
    assert one_line(FlashnasError, load_architecture, str(path)).startswith(
        message.format(path=path)
    )


@every(
    case=[
        *cases("architecture", "unknown_sources"),
        (
            "d f m2 f " * 500,
            "is not a preset, not a YAML or JSON file and not a notation such as '2048: d f m2 f'",
        ),
        ("x" * 100_000, f"'{'x' * 119}.. is not a preset"),
        ("128: d)" + " " * 9 + "d " * 5000, "operators: ')' without its '(' in 'd)"),
    ]
)
def test_unknown_source_is_named(case):
    source, message = case
    assert message in one_line(FlashnasError, load_architecture, source)


def test_the_folder_of_a_run_names_one_of_its_networks(tmp_path):
    (tmp_path / "pareto").mkdir()
    assert one_line(FlashnasError, load_architecture, str(tmp_path)) == (
        f"{tmp_path}: is the folder of a run; name a file of {tmp_path}/pareto: flashnas report"
        f" {tmp_path} says which network it recommends"
    )
