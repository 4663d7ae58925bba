import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deblora.debias import SizeConstrainedKMeans, cluster_features, matmul, minimum_size
from deblora.debias import rows as lloyd_rows
from deblora.debias.kmeans import lloyd as lloyd_module
from deblora.debias.kmeans import lloyd as lloyd_start
from deblora.debias.kmeans.lloyd import lloyd
from deblora.debias.kmeans.nearest_centers import NearestCenters
from deblora.debias.rows import Rows, centered_rows, row_squares
from deblora.errors import DataError


def separated(rng: np.random.Generator, offset: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Float32 rows of five classes whose centers lie about 45 spreads apart, and the classes."""
    classes = rng.choice(5, size=400, p=[0.4, 0.3, 0.2, 0.06, 0.04])
    rows = rng.normal(size=(400, 40)) + 5 * rng.normal(size=(5, 40))[classes] + offset
    return rows.astype(np.float32), classes


def same_partition(one: np.ndarray, other: np.ndarray) -> bool:
    n_pairs = len(np.unique(np.stack([one, other]), axis=1).T)
    return n_pairs == len(np.unique(one)) == len(np.unique(other))


def test_minimum_size_by_hand() -> None:
    assert minimum_size(98_990, 32, 10) == 310
    assert minimum_size(10, 3, 1) == 3
    assert minimum_size(100, 4, float("inf")) == 0
    with pytest.raises(ValueError, match="rho"):
        minimum_size(10, 2, 0.5)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), n_clusters=st.integers(1, 6), rho=st.sampled_from([1.0, 2.0, 10.0]))
def test_floor_means_and_monotone_objective(seed: int, n_clusters: int, rho: float) -> None:
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(60, 3))
    features[:4] *= 30
    floor = minimum_size(60, n_clusters, rho)
    result = lloyd(features, features[:n_clusters], min_size=floor, tol=0)
    sizes = np.bincount(result.labels, minlength=n_clusters)
    assert sizes.sum() == 60
    assert sizes.min() >= floor
    means = np.array([features[result.labels == k].mean(axis=0) for k in range(n_clusters)])
    np.testing.assert_allclose(result.centers, means, atol=1e-9)
    assert (np.diff(result.history) <= 0).all()
    assert result.inertia == pytest.approx(((features - means[result.labels]) ** 2).sum())


def test_permuting_samples_permutes_labels(rng: np.random.Generator) -> None:
    features = rng.normal(size=(80, 4))
    order = rng.permutation(80)
    straight = lloyd(features, features[:5], min_size=14)
    permuted = lloyd(features[order], features[:5], min_size=14)
    assert np.array_equal(straight.labels[order], permuted.labels)


def test_same_seed_same_result_and_float32_stays(rng: np.random.Generator) -> None:
    features = rng.normal(size=(200, 5)).astype(np.float32)
    first, second = (SizeConstrainedKMeans(6, min_size=20, random_state=3).fit(features) for _ in range(2))
    assert np.array_equal(first.labels_, second.labels_)
    assert first.cluster_centers_.dtype == np.float32


def test_predict_is_nearest_center(rng: np.random.Generator) -> None:
    features = rng.normal(size=(100, 3))
    model = SizeConstrainedKMeans(4, random_state=0, tol=0).fit(features)
    distances = ((features[:, None] - model.cluster_centers_) ** 2).sum(axis=2)
    assert np.array_equal(model.predict(features), distances.argmin(axis=1))
    assert np.array_equal(model.predict(features), model.labels_)


def test_empty_cluster_restarts_at_the_farthest_row() -> None:
    features = np.array([[0.0], [1.0], [2.0], [10.0]])
    result = lloyd(features, np.array([[1.0], [500.0]]))
    assert np.bincount(result.labels, minlength=2).tolist() == [3, 1]
    assert result.centers.ravel().tolist() == [1.0, 10.0]


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (np.zeros((3, 2)), "lower n_clusters"),
        (np.ones((20, 2)), "distinct"),
        (np.full((20, 2), np.nan), "row 0"),
        (np.zeros((0, 2)), "non-empty"),
    ],
)
def test_unusable_features_are_refused(features: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message):
        SizeConstrainedKMeans(5, random_state=0).fit(features)


def test_floor_that_does_not_fit_is_refused(rng: np.random.Generator) -> None:
    with pytest.raises(DataError, match="at least 4"):
        SizeConstrainedKMeans(3, min_size=4, random_state=0).fit(rng.normal(size=(10, 2)))


@pytest.mark.parametrize("space", ["standardize", "raw", "l2", "pca"])
def test_centers_are_means_of_raw_members_in_every_space(space: str, rng: np.random.Generator) -> None:
    features = rng.normal(size=(120, 6)).astype(np.float32) * np.arange(1, 7, dtype=np.float32)
    labels, centers, floor, inertia = cluster_features(features, n_clusters=4, rho=2, space=space, seed=0)
    assert floor == 15
    assert np.bincount(labels, minlength=4).min() >= 15
    for k in range(4):
        np.testing.assert_allclose(centers[k], features[labels == k].mean(axis=0), rtol=1e-5, atol=1e-6)
    assert inertia > 0


def test_standardized_space_ignores_units_and_constant_dimensions(rng: np.random.Generator) -> None:
    features = rng.normal(size=(90, 3))
    scaled = np.column_stack([features * [1.0, 100.0, 0.01], np.full(90, 7.1)])
    first = cluster_features(features, n_clusters=3, rho=10, seed=1)
    second = cluster_features(scaled, n_clusters=3, rho=10, seed=1)
    assert np.array_equal(first[0], second[0])


def test_zero_row_has_no_direction() -> None:
    with pytest.raises(DataError, match="row 1"):
        cluster_features(np.array([[1.0, 0.0], [0.0, 0.0]]), n_clusters=1, rho=1, space="l2", seed=0)


def test_import_loads_no_torch() -> None:
    code = "import sys, deblora.debias; sys.exit('torch' in sys.modules or 'sklearn' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_start_can_be_given(rng: np.random.Generator) -> None:
    features = rng.normal(size=(90, 3)) + 50
    model = SizeConstrainedKMeans(4, min_size=20, init=features[:4], n_init=7, tol=0).fit(features)
    assert np.array_equal(model.labels_, lloyd(features, features[:4], min_size=20, tol=0).labels)
    with pytest.raises(ValueError, match=r"\(5, 3\)"):
        SizeConstrainedKMeans(5, init=features[:4]).fit(features)


@pytest.mark.parametrize("min_size", [0, 16])
def test_large_common_offset_changes_nothing(min_size: int, rng: np.random.Generator) -> None:
    features, classes = separated(rng, offset=1e3)
    model = SizeConstrainedKMeans(5, min_size=min_size, random_state=0).fit(features)
    assert same_partition(model.labels_, classes)
    exact = features.astype(np.float64)
    means = np.array([exact[model.labels_ == k].mean(axis=0) for k in range(5)])
    np.testing.assert_allclose(model.cluster_centers_, means, rtol=0, atol=2e-4)
    assert model.inertia_ == pytest.approx(((exact - means[model.labels_]) ** 2).sum(), rel=1e-4)
    assert np.array_equal(model.predict(features), model.labels_)


def test_only_a_large_mean_is_subtracted(rng: np.random.Generator) -> None:
    near, _ = separated(rng)
    far, _ = separated(rng, offset=1e3)
    assert centered_rows(near)[0].origin is None
    rows, squares = centered_rows(far)
    np.testing.assert_allclose(rows.origin, far.mean(axis=0, dtype=np.float64), rtol=1e-5)
    np.testing.assert_allclose(squares, ((far - rows.origin) ** 2).sum(axis=1), rtol=1e-5)


@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_fit_holds_no_copy_of_the_data(
    offset: float, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lloyd_rows, "BLOCK_ELEMENTS", 1 << 14)
    features = rng.standard_normal((3000, 400), dtype=np.float32) + np.float32(offset)
    tracemalloc.start()
    SizeConstrainedKMeans(6, min_size=300, n_init=1, max_iter=4, random_state=0).fit(features)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 0.25 * features.nbytes


def test_overflowing_squares_are_refused() -> None:
    features = np.ones((9, 2), dtype=np.float32)
    features[4] = 1e30
    with pytest.raises(DataError, match="row 4 are too large"):
        SizeConstrainedKMeans(2, random_state=0).fit(features)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), step=st.sampled_from([0.0, 1e-3, 0.1, 3.0]))
def test_bounded_search_equals_the_full_search(seed: int, step: float) -> None:
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(150, 4))
    features[:3] *= 100
    centers = features[:7].copy()
    search = NearestCenters(Rows(features), row_squares(Rows(features)), matmul.numpy_products)
    for round_ in range(8):
        distances = ((features[:, None] - centers) ** 2).sum(axis=2)
        found = search.search(centers)
        rows = np.arange(len(features))
        np.testing.assert_allclose(distances[rows, found], distances.min(axis=1), rtol=1e-9, atol=1e-9)
        centers = centers + step * rng.normal(size=centers.shape) * (rng.random(7) < 0.4)[:, None]
        if round_ == 4:
            centers[2] += 500


def test_greedy_start_covers_separated_classes_with_rows(rng: np.random.Generator) -> None:
    features, classes = separated(rng)
    start = lloyd_start.greedy_start(features, row_squares(Rows(features)), 5, rng)
    rows = [int(np.flatnonzero((features == center).all(axis=1))[0]) for center in start]
    assert sorted(classes[rows]) == [0, 1, 2, 3, 4]


def test_torch_products_keep_float32_and_restore_the_setting(rng: np.random.Generator) -> None:
    torch = pytest.importorskip("torch")
    before = torch.get_float32_matmul_precision()
    a = rng.standard_normal((300, 500), dtype=np.float32)
    b = rng.standard_normal((20, 500), dtype=np.float32)
    exact = a.astype(np.float64) @ b.astype(np.float64).T
    a.setflags(write=False)
    for left, expected in ((a, exact), (a[::-1], exact[::-1])):
        error = np.abs(matmul.torch_products(left, b) - expected).max()
        assert error < matmul.LARGEST_ERROR * np.abs(exact).max()
    assert torch.get_float32_matmul_precision() == before


@pytest.mark.parametrize("min_size", [0, 60])
def test_same_clusters_with_and_without_torch(
    min_size: int, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch")
    features, _ = separated(rng)
    fits = []
    for product in (matmul.numpy_products, matmul.torch_products):
        for module in (lloyd_module, lloyd_start):
            monkeypatch.setattr(module, "product_for", lambda *_, product=product: product)
        fits.append(SizeConstrainedKMeans(5, min_size=min_size, random_state=2).fit(features))
    assert np.array_equal(fits[0].labels_, fits[1].labels_)
    np.testing.assert_allclose(fits[0].cluster_centers_, fits[1].cluster_centers_, rtol=0, atol=1e-5)
    # The inertia is a difference of sums of squares: float32 resolves their total, not the inertia itself.
    resolution = float(np.finfo(np.float32).eps) * float(row_squares(Rows(features)).sum())
    assert abs(fits[0].inertia_ - fits[1].inertia_) < resolution


def test_without_torch_numpy_multiplies(monkeypatch: pytest.MonkeyPatch) -> None:
    many, single = matmul.MANY_MULTIPLICATIONS, np.dtype(np.float32)
    assert matmul.product_for(many - 1, single) is matmul.numpy_products
    assert matmul.product_for(many, np.dtype(np.float64)) is matmul.numpy_products
    monkeypatch.setitem(sys.modules, "torch", None)
    matmul._torch_is_installed.cache_clear()
    try:
        assert matmul.product_for(many, single) is matmul.numpy_products
    finally:
        matmul._torch_is_installed.cache_clear()


@pytest.mark.parametrize("space", ["standardize", "raw", "l2", "pca"])
@pytest.mark.parametrize("far", [1e3, 1e6, 1e15])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_one_far_row_does_not_hide_the_others(
    space: str, far: float, dtype: type, rng: np.random.Generator
) -> None:
    centers = rng.normal(size=(4, 16)) * 10
    truth = np.repeat(np.arange(4), 50)
    x = (centers[truth] + rng.normal(size=(200, 16)) + 100).astype(dtype)
    x[3] = far
    labels, found, min_size, _ = cluster_features(x, n_clusters=5, rho=np.inf, space=space, seed=0)  # type: ignore[arg-type]
    assert np.isfinite(found).all()
    if space in ("standardize", "raw"):  # directions and components of a far row are those of all
        rest = np.arange(200) != 3
        assert len({tuple(pair) for pair in np.stack([truth[rest], labels[rest]], 1).tolist()}) == 4
    labels, _, min_size, _ = cluster_features(x, n_clusters=5, rho=4.0, space=space, seed=0)  # type: ignore[arg-type]
    assert np.bincount(labels).min() >= min_size > 0


def test_costs_of_a_far_row_leave_a_solvable_problem() -> None:
    rng = np.random.default_rng(0)  # float32 told the other samples no longer apart here
    for far in (1e3, 1e6):
        for _ in range(8):
            x = rng.normal(size=(2000, 64)).astype(np.float32)
            x[3] = far
    labels, _, min_size, _ = cluster_features(
        x, n_clusters=32, rho=10.0, space="standardize", n_init=2, seed=0
    )
    assert np.bincount(labels).min() >= min_size


def test_copies_do_not_change_the_road(rng: np.random.Generator) -> None:
    x = rng.normal(size=(1000, 16)).astype(np.float32)
    x[:700] = x[rng.integers(700, 705, 700)]
    for space in ("standardize", "raw"):
        labels, _, min_size, _ = cluster_features(x, n_clusters=16, rho=4.0, space=space, seed=0)  # type: ignore[arg-type]
        assert np.bincount(labels).min() >= min_size


def test_many_rows_start_from_a_sample_and_end_as_low(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    from deblora.debias.kmeans import estimator

    x = (rng.normal(size=(8, 6))[rng.integers(0, 8, 4000)] * 6 + rng.normal(size=(4000, 6))).astype(
        np.float32
    )
    whole = SizeConstrainedKMeans(8, min_size=50, random_state=0).fit(x)
    monkeypatch.setattr(estimator, "MANY_ROWS", 1000)
    monkeypatch.setattr(estimator, "SAMPLED_ROWS", 800)
    monkeypatch.setattr(estimator, "SAMPLED_PER_CLUSTER", 50)
    found = SizeConstrainedKMeans(8, min_size=50, random_state=0).fit(x)
    assert found.inertia_ <= 1.01 * whole.inertia_ and np.bincount(found.labels_).min() >= 50
    again = SizeConstrainedKMeans(8, min_size=50, random_state=0).fit(x)
    np.testing.assert_array_equal(found.labels_, again.labels_)
