from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from builders import COUNTS
from data_builders import write_fusrs, write_text_lists
from deblora.data.chips import RescaledPixels
from deblora.data.longtail import groups_by_shots
from deblora.data.pixels import to_batch
from deblora.data.readers.lists import FUSRS_MEAN as MEAN
from deblora.data.readers.lists import FUSRS_STD as STD
from deblora.data.readers.registry import read_chips
from deblora.data.sources import Reading
from deblora.errors import DataError


def put_image(path: Path, value: int = 5, mode: str = "L") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, (4, 3), value if mode == "L" else (value, value, value)).save(path)
    return path


def test_lists_of_splits_with_names(tmp_path: Path) -> None:
    chips = read_chips(write_text_lists(tmp_path / "t"), format="textlist")
    assert chips.class_names == tuple(COUNTS)  # in the order of the numbers, not of the alphabet
    assert chips.split("train").labels.tolist().count(0) == 32 and len(chips.split("test")) == 8 + 4 + 1
    assert "images/checks/000.png" in chips.ids and chips.pixels.read(0).shape == (16, 16, 3)


def test_one_list_other_roots_spaces_and_class_names(tmp_path: Path) -> None:
    put_image(tmp_path / "pictures" / "a b" / "1.png", 9)
    put_image(tmp_path / "pictures" / "2.png", 3)
    (tmp_path / "all.txt").write_text("\ufeffa b/1.png 10\n\n  2.png\t02\n")
    (tmp_path / "names.txt").write_text("/a/airfield 2\nice rink outdoor 10\n")
    reading = Reading(images=str(tmp_path / "pictures"), class_names=str(tmp_path / "names.txt"))
    chips = read_chips(tmp_path / "all.txt", reading=reading)
    assert chips.ids == ("a b/1.png", "2.png") and set(chips.splits) == {""}
    assert chips.class_names == ("/a/airfield", "ice rink outdoor") and chips.labels.tolist() == [1, 0]
    plain = read_chips(tmp_path / "all.txt", reading=Reading(images=str(tmp_path / "pictures")))
    assert plain.class_names == ("2", "10") and plain.pixels.read(0)[0, 0, 0] == 9


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("1.png\n", r"l\.txt:1: '1\.png' is no 'path label'"),
        ("1.png 0\n\n../x.png 1\n", r"l\.txt:3: \.\./x\.png leaves"),
        ("/etc/hostname 0\n", r"l\.txt:1: /etc/hostname leaves"),
        ("1.png 0\n2.png 0\n", r"l\.txt:2: 2\.png does not exist"),
        ("1.png 0\n1.png 1\n", r"l\.txt:2: 1\.png is already in .*l\.txt:1"),
        ("1.png 7\n", r"l\.txt:1: the label 7 has no name"),
        ("link.png 0\n", r"l\.txt:1: link\.png leaves"),
        ("folder 0\n", r"l\.txt:1: folder does not exist"),
        ("\n", "no rows"),
    ],
)
def test_bad_lists_are_named_with_their_line(tmp_path: Path, content: str, message: str) -> None:
    root = tmp_path / "root"
    put_image(root / "1.png")
    (root / "folder").mkdir()
    (root / "link.png").symlink_to(put_image(tmp_path / "x.png"))
    (root / "classes.txt").write_text("a\nb\n")
    (root / "l.txt").write_text(content)
    with pytest.raises(DataError, match=message):
        read_chips(root / "l.txt")


def test_a_label_without_a_chip_is_named_with_its_line(tmp_path: Path) -> None:
    put_image(tmp_path / "1.png")
    put_image(tmp_path / "2.png")
    (tmp_path / "l.txt").write_text("1.png 3\n\n2.png -1\n")
    with pytest.raises(DataError, match=r"l\.txt:3: negative labels \(-1\)"):
        read_chips(tmp_path / "l.txt")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("a 0\nb 0\n", r"names\.txt:2: 'b' or its number 0"),
        ("a\na\n", r"names\.txt:2"),
        ("\n", "no class name"),
    ],
)
def test_bad_class_names(tmp_path: Path, names: str, message: str) -> None:
    put_image(tmp_path / "1.png")
    (tmp_path / "l.txt").write_text("1.png 0\n")
    (tmp_path / "names.txt").write_text(names)
    with pytest.raises(DataError, match=message):
        read_chips(tmp_path / "l.txt", reading=Reading(class_names=str(tmp_path / "names.txt")))


def test_folders_without_a_list_of_training_chips(tmp_path: Path) -> None:
    (tmp_path / "x_val.txt").write_text("1.png 0\n")
    with pytest.raises(DataError, match="no list of training chips"):
        read_chips(tmp_path, format="textlist")
    for name in ("train.txt", "x_train.txt"):
        (tmp_path / name).write_text("1.png 0\n")
    with pytest.raises(DataError, match="both list the split train"):
        read_chips(tmp_path, format="textlist")


def test_many_medium_and_few_shot_classes_at_their_limits() -> None:
    groups = groups_by_shots(np.array([101, 100, 20, 19]))
    assert (groups.head, groups.middle, groups.tail) == ((0,), (1, 2), (3,))


def test_fusrs_has_its_own_order_and_one_channel(tmp_path: Path) -> None:
    source = write_fusrs(tmp_path / "f")
    put_image(source / "train" / "Cargo" / "rgb.png", 77, "RGB")
    chips = read_chips(source, format="fusrs")
    assert chips.class_names == ("cargo", "fishing", "dredger")  # labels 0, 2, 4 of the five
    assert {chips.pixels.read(i).shape[2] for i in range(len(chips))} == {1}
    assert chips.pixels.read(chips.ids.index("train/Cargo/rgb.png"))[0, 0, 0] == 77
    Image.new("RGB", (4, 4), (1, 2, 3)).save(source / "train" / "Cargo" / "zz.png")
    chips = read_chips(source, format="fusrs")
    with pytest.raises(DataError, match=r"train/Cargo/zz\.png: a color image"):
        chips.pixels.read(chips.ids.index("train/Cargo/zz.png"))
    put_image(source / "train" / "Yacht" / "1.png")
    with pytest.raises(DataError, match="'Yacht' is no class of FUSRS"):
        read_chips(source, format="fusrs")


def test_fusrs_from_lists_of_numbers(tmp_path: Path) -> None:
    for i in range(4):
        put_image(tmp_path / f"{i}.png")
    (tmp_path / "train.txt").write_text("0.png 4\n1.png 0\n2.png 3\n")
    (tmp_path / "test.txt").write_text("3.png 0\n")
    chips = read_chips(tmp_path, format="fusrs")
    assert chips.class_names == ("cargo", "tanker", "dredger") and chips.labels.tolist() == [2, 0, 1, 0]
    (tmp_path / "test.txt").write_text("3.png 5\n")
    with pytest.raises(DataError, match="'5' is no class of FUSRS"):
        read_chips(tmp_path, format="fusrs")


def test_black_and_white_of_the_recipe_are_the_authors_normalization(rng: np.random.Generator) -> None:
    from conftest import REPOSITORY_ROOT
    from deblora.recipe.classify import read_recipe, recipe_from

    data = recipe_from(read_recipe(REPOSITORY_ROOT / "recipes" / "fusrs.yaml")).data
    chip = rng.integers(0, 255, (8, 8, 1)).astype(np.uint8)

    class One:
        def __len__(self) -> int:
            return 1

        def read(self, index: int) -> np.ndarray:
            return chip

    assert data.scale is not None
    seen = RescaledPixels(One(), data.offset, data.scale).read(0)
    batch = to_batch([seen], image_size=8, mean=(0.5,), std=(0.5,), scale=255.0)
    np.testing.assert_allclose(batch[0, 0].numpy(), (chip[:, :, 0] - MEAN) / STD, atol=1e-5)
