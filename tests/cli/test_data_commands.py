"""``deblora data`` and ``deblora audit`` with settings."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from builders import write_chips
from data_builders import huge_png, write_dota
from deblora.cli.data_commands import NOT_DECODED
from deblora.cli.main import main
from deblora.data.catalog import UNKNOWN, matching, read_catalog
from deblora.data.readers.registry import READERS

Capture = pytest.CaptureFixture[str]


def out(capsys: Capture, *arguments: str, code: int = 0) -> str:
    capsys.readouterr()
    assert main(list(arguments)) == code
    shown = capsys.readouterr()
    return shown.out if code == 0 else shown.err


def test_every_card_is_complete_and_has_a_source() -> None:
    cards = read_catalog()
    assert len(cards) >= 40 and len({card.name for card in cards}) == len(cards)
    for card in cards:
        assert re.fullmatch(r"(19|20)\d\d", card.year), card
        assert card.obtain.startswith(("https://", "http://", "doi:10.")), card
        assert re.search(r"doi:10\.|arXiv:\d{4}\.\d", card.reference), card
        assert re.fullmatch(rf"\d+|{UNKNOWN}", card.n_images), card
        assert set(card.sensor.split(";")) <= {"optical", "sar", "multispectral", "thermal", "natural"}, card
        assert set(card.reader.split(";")) <= {*READERS, "none", UNKNOWN}, card
        assert all(value.strip() for name, value in vars(card).items() if name != "remark"), card
        assert len(card.__dict__) == 13 and None not in vars(card).values(), card


def test_filters_and_json(capsys: Capture) -> None:
    shown = out(capsys, "data", "--sensor", "sar", "--task", "detection")
    assert "HRSID" in shown and "EuroSAT" not in shown and "data.format" in shown
    cards = json.loads(out(capsys, "data", "--sensor", "SAR", "--json"))
    assert {card["name"] for card in cards} == {card.name for card in matching(read_catalog(), sensor="sar")}
    assert {card["name"] for card in json.loads(out(capsys, "data", "--reader", "dota", "--json"))} >= {
        "DOTA-v1.0"
    }


def test_one_card(capsys: Capture) -> None:
    shown = out(capsys, "data", "hit uav")
    assert "10.1038/s41597-023-02066-6" in shown and "CC BY 4.0" in shown
    assert json.loads(out(capsys, "data", "DOTA-v1.0", "--json"))["n_classes"] == "15"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nothing"], "'nothing' is not in the catalog"),
        (["dota"], "'dota' fits several data sets: DOTA-v1.0, DOTA-v1.5, DOTA-v2.0"),
        (["--sensor", "lidar"], "no data set has the sensor 'lidar'; choose one of multispectral"),
        (["--colour", "x"], "deblora data --help"),
    ],
)
def test_wrong_questions_get_an_answer(capsys: Capture, arguments: list[str], words: str) -> None:
    message = out(capsys, "data", *arguments, code=2)
    assert message.startswith("deblora: ") and words in message and message.count("\n") == 1


def test_the_catalog_needs_no_torch() -> None:
    code = (
        "import sys; from deblora.cli.main import main; assert main(['data', '--json']) == 0; "
        "print([m for m in ('torch', 'transformers', 'pyarrow', 'rasterio') if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"


def test_audit_takes_every_setting_of_the_data(capsys: Capture, tmp_path: Path) -> None:
    source = str(write_chips(tmp_path / "c", counts={"checks": 150, "rows": 60, "slope": 12}))
    groups = {
        "shots": ["middle", "middle", "tail"],
        "counts": ["head", "head", "middle"],
    }
    for name, expected in groups.items():
        settings = ["--data.head_above", "29", "--data.tail_below", "5", "--data.test_fraction", "0.3"]
        *lines, last = out(capsys, "audit", source, "--data.groups", name, *settings).splitlines()[1:]
        assert last == NOT_DECODED
        assert [line.split()[1] for line in lines] == expected
        assert lines[0].split()[4] == "45"
    assert out(capsys, "audit", source, "--groups", "shots") == out(
        capsys, "audit", source, "--data.groups", "shots"
    )
    some = out(capsys, "audit", source, "--data.ignore", "[rows]", "--decode")
    assert (
        "60 chips left out as asked, of the classes rows" in some
        and "162 chips decoded, bands 3, uint8" in some
        and "not decoded" not in some
    )
    assert "data.context is 0.5" in out(capsys, "audit", source, "--data.context", "0.5", code=2)
    assert "data.bands [0] counts from 1" in out(capsys, "audit", source, "--data.bands", "[0]", code=2)


def test_audit_of_unreadable_chips(capsys: Capture, tmp_path: Path) -> None:
    source = write_chips(tmp_path / "c")
    (source / "checks" / "000.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    message = out(capsys, "audit", str(source), "--decode", code=2)
    assert (
        "1 chips cannot be read" in message
        and "checks/000.png" in message
        and "data.on_error: skip" in message
    )
    (source / "rows" / "000.png").write_bytes(huge_png())
    shown = out(capsys, "audit", str(source), "--decode", "--data.on_error", "skip")
    assert "2 of 68 chips cannot be read and are left out (" in shown and "skipped" in shown
    assert "too many pixels for a chip" in shown and "66 chips decoded" in shown


def test_reference_groups_of_dota(capsys: Capture, tmp_path: Path) -> None:
    from deblora.data.scenes.dota import CLASSES_V1_0

    source = write_dota(tmp_path / "d", counts={"checks": 8, "rows": 8}, n_scenes=2)
    assert "15 classes of DOTA-v1.0" in out(
        capsys, "audit", str(source), "--data.groups", "reference", code=2
    )
    for split in ("train", "val"):
        for path in (source / split / "labelTxt").glob("*.txt"):
            quads = [
                f"{4 * i} 0 {4 * i + 3} 0 {4 * i + 3} 9 {4 * i} 9 {n} 0" for i, n in enumerate(CLASSES_V1_0)
            ]
            path.write_text("\n".join(quads))
    for name, size in (("reference", 3), ("reference-oct2024", 4)):
        shown = out(capsys, "audit", str(source), "--data.groups", name, "--data.version", "v1.0")
        assert [shown.count(f" {group} ") for group in ("head", "tail")] == [size, 6]
