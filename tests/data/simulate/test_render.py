"""Closed forms of shadow, layover and rasterization, and the agreement of the two sensors."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deblora.data.simulate.render import (
    CLASSES,
    DB_RANGE,
    INCIDENCE_DEGREES,
    NOISE_FLOOR_DB,
    Scene,
    SceneObject,
    cast_shadow,
    draw_scene,
    place,
    render_optical,
    render_sar,
)
from deblora.data.simulate.shapes import BACKSCATTER_DB, SHAPES, Body, Material, rectangle


def flat(material: Material, size: int = 128) -> Scene:
    return Scene(np.full((size, size), material, np.uint8), np.zeros((size, size), np.float32), 0.5)


@pytest.mark.parametrize("elevation", [30.0, 45.0, 60.0])
@pytest.mark.parametrize("gsd", [0.25, 0.5])
def test_shadow_of_a_wall_has_the_length_of_the_triangle(elevation: float, gsd: float) -> None:
    height = np.zeros((4, 100), np.float32)
    height[:, 10] = 5.0
    hidden = cast_shadow(height, gsd=gsd, elevation=np.deg2rad(elevation))
    expected = (5.0 - 0.15) / np.tan(np.deg2rad(elevation)) / gsd
    assert not hidden[:, :11].any()
    assert np.all(np.abs(hidden[:, 11:].sum(axis=1) - expected) <= 1)


def test_flat_ground_casts_no_shadow() -> None:
    assert not cast_shadow(np.zeros((8, 8), np.float32), gsd=1.0, elevation=0.5).any()


@settings(max_examples=20, deadline=None)
@given(x=st.floats(-20, 20), y=st.floats(-20, 20), heading=st.floats(0, 6.28))
def test_placing_keeps_lengths_and_moves_the_middle(x: float, y: float, heading: float) -> None:
    part = rectangle(0, 0, 4, 2, Material.WHITE, 1.0)
    moved = place([part], (x, y), heading)[0].polygon
    sides = np.linalg.norm(np.diff(moved, axis=0), axis=1)
    np.testing.assert_allclose(sides, [4, 2, 4])
    np.testing.assert_allclose(moved.mean(axis=0), [x, y], atol=1e-9)
    np.testing.assert_allclose(moved[1] - moved[0], [4 * np.cos(heading), 4 * np.sin(heading)], atol=1e-9)


def test_rasterized_area_and_heights_match_the_polygon() -> None:
    part = rectangle(3, -4, 20, 10, Material.RED, 2.5)
    scene = draw_scene([part], ground=Material.GRASS, size=128, gsd=0.5)
    inside = scene.material == Material.RED
    assert inside.sum() * 0.25 == pytest.approx(200, rel=0.1)
    assert set(np.unique(scene.height[inside])) == {2.5}
    assert not scene.height[~inside].any()
    rows, columns = np.nonzero(inside)
    assert columns.mean() == pytest.approx(63.5 + 6, abs=0.6)
    assert rows.mean() == pytest.approx(63.5 - 8, abs=0.6)


@pytest.mark.parametrize("name", list(CLASSES))
def test_every_shape_stays_near_its_nominal_size(name: str) -> None:
    for detail in (0.0, 0.49, 0.99):
        parts = SHAPES[name](Body(10.0, 5.0, 3.0, Material.POOL, detail))
        # Roads run on beyond a roundabout and a bridge: their own size is that of the raised or round parts.
        own = [p.polygon for p in parts if p.material != Material.ASPHALT and np.abs(p.polygon).max() < 12]
        points = np.concatenate(own)
        assert np.ptp(points[:, 0]) >= 8.0 or name in ("roundabout", "harbor")
        assert np.abs(points).max() <= 8.0 or name == "roundabout"
        assert any(p.material == Material.POOL for p in parts)


def test_speckle_keeps_the_mean_and_has_two_looks_on_a_flat_surface(rng: np.random.Generator) -> None:
    scene = flat(Material.CONCRETE, 512)
    image = render_sar(scene, rng)[..., 0].astype(float) / 255
    power = 10 ** ((DB_RANGE[0] + image * (DB_RANGE[1] - DB_RANGE[0])) / 10)
    expected = 10 ** (BACKSCATTER_DB[Material.CONCRETE] / 10) + 10 ** (NOISE_FLOOR_DB / 10)
    assert power.mean() == pytest.approx(expected, rel=0.05)
    # Gamma speckle with L looks: mean^2 / variance = L, a little less because of the texture.
    assert power.mean() ** 2 / power.var() == pytest.approx(2.0, abs=0.25)


def test_layover_moves_a_roof_toward_the_sensor_and_leaves_a_shadow_behind(rng: np.random.Generator) -> None:
    roof = rectangle(0, 0, 10, 40, Material.METAL, 8.0)
    scene = draw_scene([roof], ground=Material.WATER, size=256, gsd=0.25)
    profile = render_sar(scene, rng)[40:88, :, 0].mean(axis=0)
    shift = 8.0 / np.tan(np.deg2rad(INCIDENCE_DEGREES)) / 0.5
    left, right = 64 - 10, 64 + 10
    bright = np.nonzero(profile > 150)[0]
    assert bright.min() == pytest.approx(left - shift, abs=2.5)
    assert bright.max() == pytest.approx(max(right - shift, left), abs=2.5)
    water = render_sar(flat(Material.WATER, 256), rng)[..., 0].mean()
    assert profile[right + 2 : right + 10].mean() < water - 10


def test_double_bounce_brightens_only_the_wall_that_faces_the_sensor(rng: np.random.Generator) -> None:
    slab = rectangle(0, 0, 20, 60, Material.CONCRETE, 0.4)
    scene = draw_scene([slab], ground=Material.CONCRETE, size=256, gsd=0.5)
    profile = render_sar(scene, rng)[40:88, :, 0].mean(axis=0)
    level = np.median(profile)
    assert profile[64 - 13 : 64 - 7].max() > level + 50
    assert profile[64 + 7 : 64 + 13].max() < level + 25


def test_a_mast_of_concrete_on_concrete_shows_by_its_shadow_alone(rng: np.random.Generator) -> None:
    mast = rectangle(0, 0, 4, 4, Material.CONCRETE, 10.0)
    scene = draw_scene([mast], ground=Material.CONCRETE, size=256, gsd=0.5)
    image = render_optical(scene, rng).astype(float).mean(axis=2)
    assert np.percentile(image, 0.2) < 0.6 * np.median(image)
    assert np.percentile(image, 20) > 0.75 * np.median(image)


def test_optical_colors_follow_the_reflectance(rng: np.random.Generator) -> None:
    red = render_optical(flat(Material.RED), rng).reshape(-1, 3).mean(axis=0)
    blue = render_optical(flat(Material.BLUE), rng).reshape(-1, 3).mean(axis=0)
    assert red[0] > 1.5 * red[2]
    assert blue[2] > 1.5 * blue[0]
    assert (
        render_optical(flat(Material.WHITE), rng).mean() > 2 * render_optical(flat(Material.DARK), rng).mean()
    )


def test_near_infrared_tells_grass_from_a_green_court() -> None:
    grass = render_optical(flat(Material.GRASS), np.random.default_rng(1), bands=(1, 4))
    court = render_optical(flat(Material.GREEN_COURT), np.random.default_rng(1), bands=(1, 4))
    assert grass.shape == (64, 64, 2)
    assert grass[..., 1].mean() - grass[..., 0].mean() > court[..., 1].mean() - court[..., 0].mean() + 20


def test_both_sensors_see_a_ship_at_the_same_place() -> None:
    body = Body(40.0, 10.0, 0.5, Material.WHITE, 0.0)
    ship = SceneObject("ship", (10.0, -5.0), 0.7, body)
    scene = draw_scene(ship.parts(), ground=Material.WATER, size=256, gsd=0.5)
    centers = []
    for render in (render_optical, render_sar):
        image = render(scene, np.random.default_rng(0)).astype(float).mean(axis=2)
        weight = np.clip(image - np.percentile(image, 97.5), 0, None)
        grid = np.arange(128)
        centers.append([(weight.sum(axis=axis) @ grid) / weight.sum() for axis in (0, 1)])
    np.testing.assert_allclose(centers[0], centers[1], atol=6)
    np.testing.assert_allclose(centers[0], [63.5 + 10, 63.5 - 5], atol=6)


def test_classes_are_ordered_by_frequency_and_drawable() -> None:
    frequencies = [spec.frequency for spec in CLASSES.values()]
    assert frequencies == sorted(frequencies, reverse=True)
    assert set(CLASSES) == set(SHAPES)
