"""Quotas, tight boxes, room, sensors and the coverage of the tail in whole scenes."""

import runpy
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from conftest import REPOSITORY_ROOT
from deblora.data.decode import decode_chip
from deblora.data.longtail import exponential_counts
from deblora.data.simulate.chips import CLASS_NAMES, TAIL_CLASS_NAMES, covered
from deblora.data.simulate.layout import BOX_TURN, ROUND, draw_heading, own_parts, tight_quad, visible_share
from deblora.data.simulate.render import CLASSES, SceneObject, draw_scene, place
from deblora.data.simulate.scenes import (
    MIN_VISIBLE,
    SceneRecipe,
    SceneSensor,
    SimulatedScene,
    plan_scenes,
    simulate_scenes,
)
from deblora.data.simulate.shapes import Body, Material
from deblora.errors import DataError

ONE_EACH = dict.fromkeys(CLASS_NAMES, 1)


def recipe(quotas: Mapping[str, int], n: int = 4, **changes: object) -> SceneRecipe:
    values = {
        "split": "train",
        "n_scenes": n,
        "quotas": quotas,
        "size": 512,
        "gsd": 1.0,
        "tail_coverage": 1.0,
        "tail_class_names": TAIL_CLASS_NAMES,
        "seed": 0,
    }
    return SceneRecipe(**{**values, **changes})


def long_tail(largest: int, imbalance_factor: float) -> dict[str, int]:
    counts = exponential_counts(len(CLASS_NAMES), largest=largest, imbalance_factor=imbalance_factor)
    return dict(zip(CLASS_NAMES, counts.tolist(), strict=True))


def fill(quad: np.ndarray, side: int) -> np.ndarray:
    """Return the pixels whose centers a quad covers; pixel i covers [i, i + 1)."""
    x, y = np.meshgrid(np.arange(side) + 0.5, np.arange(side) + 0.5)
    inside = np.ones((side, side), dtype=bool)
    for a, b in zip(quad, np.roll(quad, -1, axis=0), strict=True):
        inside &= (b[0] - a[0]) * (y - a[1]) - (b[1] - a[1]) * (x - a[0]) >= 0
    return inside


def area(polygon: np.ndarray) -> float:
    x, y = polygon.T
    return float(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2


def overlap_free(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether an edge of one convex quad separates it from the other (touching within 1e-6 counts)."""
    for one, other in ((a, b), (b, a)):
        edges = np.roll(one, -1, axis=0) - one
        normals = np.stack([edges[:, 1], -edges[:, 0]], axis=1)
        if ((other @ normals.T - (one * normals).sum(axis=1)).min(axis=0) > -1e-6).any():
            return True
    return False


@pytest.fixture(scope="module")
def crowded() -> tuple[SceneRecipe, tuple]:
    made = recipe(long_tail(100, 30), n=6)
    return made, plan_scenes(made)


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_every_split_has_exactly_its_quotas(split: str) -> None:
    quotas = long_tail(60, 20) if split == "train" else dict.fromkeys(CLASS_NAMES, 4)
    layouts = plan_scenes(recipe(quotas, n=5, split=split))
    assert len(layouts) == 5
    assert Counter(one.item.class_name for layout in layouts for one in layout.placed) == quotas
    assert [layout.name for layout in layouts] == [f"{split}{i:05d}" for i in range(5)]


@settings(max_examples=10, deadline=None)
@given(
    st.dictionaries(st.sampled_from(CLASS_NAMES), st.integers(0, 6)), st.integers(1, 4), st.integers(0, 999)
)
def test_quotas_hold_for_any_mixture(quotas: dict[str, int], n: int, seed: int) -> None:
    placed = [one for layout in plan_scenes(recipe(quotas, n=n, seed=seed, gsd=1.5)) for one in layout.placed]
    assert Counter(one.item.class_name for one in placed) == Counter(quotas)


def test_no_two_boxes_overlap_and_centers_lie_inside(crowded: tuple) -> None:
    made, layouts = crowded
    half = made.size * made.gsd / 2
    for layout in layouts:
        quads = [one.quad for one in layout.placed]
        for i, quad in enumerate(quads):
            assert np.abs(quad.mean(axis=0)).max() <= half
            assert visible_share(quad, 2 * half) >= 0.2
            assert all(overlap_free(quad, other) for other in quads[:i])


def test_boxes_are_rectangles_in_clockwise_order(crowded: tuple) -> None:
    for layout in crowded[1]:
        for one in layout.placed:
            sides = np.roll(one.quad, -1, axis=0) - one.quad
            np.testing.assert_allclose(sides[0], -sides[2], atol=1e-9)
            assert abs(sides[0] @ sides[1]) < 1e-6
            assert area(one.quad) > 0  # With y down, a positive area is clockwise on screen.


@pytest.mark.parametrize("name", CLASS_NAMES)
@pytest.mark.parametrize("heading", [0.0, 0.5, 2.4, 4.0])
@pytest.mark.parametrize("detail", [0.1, 0.9])
def test_boxes_enclose_what_is_drawn_tightly(name: str, heading: float, detail: float) -> None:
    spec = CLASSES[name]
    length, aspect = sum(spec.length) / 2, sum(spec.aspect) / 2
    item = SceneObject(name, (3.1, -2.2), heading, Body(length, length * aspect, 2.0, Material.RED, detail))
    # An object of 150 pixels shows the geometry without the pixels.
    side, gsd = 512, length / 150
    parts = place(own_parts(name, item.body), item.center, heading)
    drawn = draw_scene(
        [p._replace(material=Material.RED) for p in parts], ground=Material.WATER, size=side, gsd=gsd
    )
    mask = drawn.material == Material.RED
    quad = tight_quad(item) / gsd + side / 2
    rows, columns = np.nonzero(mask)
    along, across = quad[1] - quad[0], quad[2] - quad[1]
    points = np.stack([columns + 0.5, rows + 0.5], axis=1) - quad.mean(axis=0)
    for axis in (along, across):
        reach = points @ (axis / np.linalg.norm(axis))
        np.testing.assert_allclose(
            [reach.min(), reach.max()], np.array([-0.5, 0.5]) * np.linalg.norm(axis), atol=2
        )
    full = {
        "tennis-court",
        "basketball-court",
        "soccer-ball-field",
        "bridge",
        "large-vehicle",
        "small-vehicle",
    }
    if name in full:
        covered_pixels = fill(quad, side)
        share = (mask & covered_pixels).sum() / (mask | covered_pixels).sum()
        assert share >= (0.9 if name != "large-vehicle" else 0.85)


@pytest.mark.parametrize("gsd", [0.5, 1.0])
def test_boxes_meet_the_pixels_of_the_image(gsd: float) -> None:
    scenes = simulate_scenes(2, split="train", quotas={"soccer-ball-field": 2}, gsd=gsd, seed=5)
    for layout, scene in zip(
        plan_scenes(recipe({"soccer-ball-field": 2}, n=2, gsd=gsd, seed=5)), scenes, strict=True
    ):
        for one, quad in zip(layout.placed, scene.quads, strict=True):
            parts = place(own_parts("soccer-ball-field", one.item.body), one.item.center, one.item.heading)
            drawn = draw_scene(
                [p._replace(material=Material.RED) for p in parts],
                ground=Material.WATER,
                size=2 * 512,
                gsd=gsd / 2,
            )
            red = (drawn.material == Material.RED).reshape(512, 2, 512, 2).mean(axis=(1, 3)) >= 0.5
            inside = fill(quad, 512)
            assert (red & inside).sum() / (red | inside).sum() > 0.95


def test_round_objects_have_upright_square_boxes() -> None:
    for name in ROUND:
        item = SceneObject(name, (0.0, 0.0), 0.7, Body(20.0, 20.0, 3.0, Material.WHITE, 0.6))
        quad = tight_quad(item)
        np.testing.assert_allclose(np.ptp(quad, axis=0), 20.0, rtol=0.02)


def test_first_side_of_a_box_is_the_front() -> None:
    item = SceneObject("ship", (0.0, 0.0), np.pi / 2, Body(40.0, 10.0, 3.0, Material.WHITE, 0.6))
    front = tight_quad(item)[:2].mean(axis=0)
    np.testing.assert_allclose(front, [0, 20], atol=1e-9)


def test_all_sensors_share_names_boxes_and_flags() -> None:
    scenes = {
        sensor: list(simulate_scenes(2, split="train", quotas=ONE_EACH, size=256, gsd=2.4, sensor=sensor))
        for sensor in ("optical", "multispectral", "sar")
    }
    for optical, bands, sar in zip(*scenes.values(), strict=True):
        assert [s.image.shape[2] for s in (optical, bands, sar)] == [3, 7, 1]
        for other in (bands, sar):
            assert other.name == optical.name
            assert other.class_names == optical.class_names
            np.testing.assert_array_equal(other.quads, optical.quads)
            np.testing.assert_array_equal(other.difficult, optical.difficult)
        # The same light falls on the same texture: the visible bands differ by their noise alone.
        difference = bands.image[..., [2, 1, 0]].astype(int) - optical.image
        assert np.abs(difference).mean() < 4


def test_scenes_repeat_and_depend_on_seed_and_split() -> None:
    def make(**changes: object) -> SimulatedScene:
        arguments = {"split": "train", "quotas": {"ship": 4}, "size": 128, "gsd": 2.0, "seed": 0}
        return next(simulate_scenes(1, **{**arguments, **changes}))

    np.testing.assert_array_equal(make().image, make().image)
    for other in (make(seed=1), make(split="val")):
        assert np.abs(make().image.astype(int) - other.image).mean() > 1


def test_difficult_marks_exactly_the_truncated_boxes() -> None:
    quotas = {"ship": 60, "plane": 40, "storage-tank": 60}
    difficult = []
    for scene in simulate_scenes(5, split="train", quotas=quotas, gsd=0.6, seed=3, sensor="sar"):
        for quad, flag in zip(scene.quads, scene.difficult, strict=True):
            share = 1.0
            if quad.min() < 0 or quad.max() > 512:
                canvas = Image.new("L", (1112, 1112))
                ImageDraw.Draw(canvas).polygon((quad + 300).ravel().tolist(), fill=1)
                mask = np.asarray(canvas)
                share = mask[300:812, 300:812].sum() / mask.sum()
            if abs(share - MIN_VISIBLE) > 0.06:
                assert flag == (share < MIN_VISIBLE)
            difficult.append(bool(flag))
    assert 0 < sum(difficult) < 0.2 * len(difficult)


def test_visible_share_of_hand_made_boxes() -> None:
    def share(polygon: np.ndarray, x: float, y: float) -> float:
        return visible_share(polygon + np.array([x, y]), 10)

    square = np.array([(-1.0, -1.0), (1, -1), (1, 1), (-1, 1)])
    assert share(square, 0, 0) == 1
    assert share(square, 5, 0) == pytest.approx(0.5)
    assert share(square, 5, 5) == pytest.approx(0.25)
    assert share(square, 6.5, 0) == 0
    diamond = np.array([(0.0, -1.0), (1, 0), (0, 1), (-1, 0)])
    assert share(diamond, 5, 5) == pytest.approx(0.25)
    assert share(diamond, 5.5, 0) == pytest.approx(0.125)


def test_zones_hold() -> None:
    made = recipe(long_tail(80, 20), n=6, split="val")
    for layout in plan_scenes(made):
        # The ground without the objects themselves.
        bare = draw_scene(layout.parts[: -_n_parts(layout)], ground=layout.ground, size=1024, gsd=0.5)
        for one in layout.placed:
            x, y = np.clip(((np.array(one.item.center) + 256) * 2).astype(int), 0, 1023)
            found = Material(int(bare.material[y, x]))
            if one.item.class_name in ("ship", "harbor"):
                assert found == Material.WATER
            else:
                assert found == one.ground


def _n_parts(layout: object) -> int:
    return sum(len(own_parts(one.item.class_name, one.item.body)) for one in layout.placed)


def test_tail_shows_a_part_in_train_and_everything_in_test() -> None:
    quotas = dict.fromkeys(TAIL_CLASS_NAMES, 25)
    seen = {}
    for split in ("train", "test"):
        made = recipe(quotas, n=16, split=split, tail_coverage=0.3, gsd=1.8)
        seen[split] = [one for layout in plan_scenes(made) for one in layout.placed]
    for name in TAIL_CLASS_NAMES:
        spec = CLASSES[name]
        train, test = ([one for one in seen[s] if one.item.class_name == name] for s in ("train", "test"))
        assert {one.ground for one in train} == set(covered(spec.grounds, 0.3)) < set(spec.grounds)
        assert {one.item.body.paint for one in train} == set(covered(spec.paints, 0.3)) < set(spec.paints)
        assert {one.ground for one in test} == set(spec.grounds)
        assert {one.item.body.paint for one in test} == set(spec.paints)
        low, high = spec.length
        assert max(one.item.body.length for one in train) <= low + 0.3 * (high - low)
        assert max(one.item.body.length for one in test) > low + 0.7 * (high - low)
        if name not in ROUND:
            turn = BOX_TURN.get(name, 0.0)
            assert np.mod([one.item.heading + turn for one in train], np.pi).max() <= 0.3 * np.pi + 1e-9
            assert np.ptp(np.mod([one.item.heading + turn for one in test], np.pi)) > 0.7 * np.pi


def test_coverage_leaves_val_and_head_classes_alone() -> None:
    for split, quotas in (("val", dict.fromkeys(CLASS_NAMES, 2)), ("train", {"ship": 20, "plane": 9})):
        narrow, full = (plan_scenes(recipe(quotas, split=split, tail_coverage=c)) for c in (0.2, 1.0))
        for one, other in zip(narrow, full, strict=True):
            assert [a.item for a in one.placed] == [b.item for b in other.placed]


@settings(max_examples=50, deadline=None)
@given(st.floats(0, 6.3), st.floats(0.05, 1.0), st.integers(0, 10**6))
def test_headings_stay_covered(frame: float, coverage: float, seed: int) -> None:
    heading = draw_heading(frame, coverage=coverage, aligned_share=0.5, rng=np.random.default_rng(seed))
    assert np.mod(heading + 1e-12, np.pi) <= coverage * np.pi + 1e-9


@pytest.mark.parametrize(("sensor", "file"), [("optical", "png"), ("multispectral", "npy"), ("sar", "png")])
def test_script_writes_images_and_labels(tmp_path: Path, sensor: SceneSensor, file: str) -> None:
    script = runpy.run_path(str(REPOSITORY_ROOT / "scripts/simulate_scenes.py"))
    quotas = {"ship": 3, "plane": 2}
    scene = next(simulate_scenes(1, split="val", quotas=quotas, size=128, gsd=2.0, sensor=sensor))
    script["write_scene"](scene, tmp_path, gsd=2.0)
    image = decode_chip((tmp_path / f"images/val00000.{file}").read_bytes(), "val00000")
    np.testing.assert_array_equal(image, scene.image)
    header, gsd, *rows = (tmp_path / "labelTxt/val00000.txt").read_text().splitlines()
    assert (header, gsd) == ("imagesource:simulated", "gsd:2.0")
    assert tuple(row.split()[8] for row in rows) == scene.class_names
    written = np.array([row.split()[:8] for row in rows], dtype=float).reshape(-1, 4, 2)
    np.testing.assert_allclose(written, scene.quads, atol=0.005)
    assert [row.split()[9] for row in rows] == [str(int(flag)) for flag in scene.difficult]


def test_without_objects_there_still_is_a_scene() -> None:
    scene = next(simulate_scenes(1, split="test", quotas={}, size=64))
    assert scene.image.shape == (64, 64, 3)
    assert scene.quads.shape == (0, 4, 2)
    assert scene.difficult.shape == (0,)


@pytest.mark.parametrize(
    ("quotas", "size", "name"),
    [
        ({"ground-track-field": 1}, 64, "ground-track-field"),
        ({"ship": 500}, 128, "ship"),
        ({"roundabout": 9}, 256, "roundabout"),
    ],
)
def test_too_many_objects_are_refused_before_the_first_scene(quotas: dict, size: int, name: str) -> None:
    with pytest.raises(DataError, match=f"{name}.*scenes"):
        simulate_scenes(1, split="train", quotas=quotas, size=size, gsd=0.5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sensor": "radar"}, "radar"),
        ({"split": "dev"}, "dev"),
        ({"n_scenes": 0}, "n_scenes"),
        ({"quotas": {"car": 3}}, "car"),
        ({"quotas": {"ship": -1}}, "-1"),
        ({"quotas": {"ship": 1.5}}, "1.5"),
        ({"tail_class_names": ("boat",)}, "boat"),
        ({"size": 100}, "100"),
        ({"size": 0}, "0"),
        ({"gsd": 0.0}, "gsd"),
        ({"gsd": float("nan")}, "gsd"),
        ({"tail_coverage": 0.0}, "0.0"),
        ({"tail_coverage": 1.5}, "1.5"),
        ({"seed": -1}, "-1"),
    ],
)
def test_arguments_out_of_range_are_named(change: dict, message: str) -> None:
    arguments = {"n_scenes": 1, "split": "train", "quotas": {"ship": 1}}
    with pytest.raises(ValueError, match=message):
        simulate_scenes(**{**arguments, **change})
