"""Which samples of an unlabeled pool to label next: strategies on features and logits, one function for all.

``p_c = softmax(g / T + log(n_c / n))`` are the probabilities of a pool sample: ``g`` its balanced-softmax logits, ``T``
their temperature, ``n_c`` the labels of class ``c`` so far. Balanced logits take all classes as equally frequent; the
prior of the labels, which is long-tailed as archives are, brings the frequencies back.

- ``half-sure``: for the class that has the fewest labels, the sample whose ``p_c`` is nearest to 1/2: surer ones teach
  little, less sure ones are mostly of other classes.
- ``apart``: for that class, of the twenty samples whose ``p_c`` is nearest to 1/2 the one farthest from all labeled and
  chosen ones: archives hold many chips that say the same.
- ``rare-first``: for that class, the sample with the largest ``p_c``.
- ``k-center``: the sample farthest from all labeled and chosen ones (Sener, Savarese, arXiv 1708.00489).
- ``typiclust``: the most typical sample of the largest cluster without a label (Hacohen et al., arXiv 2202.02794).
- ``badge``: k-means++ on the gradients of the last layer (Ash et al., arXiv 1906.03671).
- ``entropy``, ``margin``: the most uncertain samples by ``p``; ``random``.

Which of them helps rare classes was measured (docs/labeling.md).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float, Int
from scipy.special import expit, logsumexp
from threadpoolctl import threadpool_limits

from deblora.evaluate.classifiers.cross_validation import fit_cross_validated
from deblora.evaluate.metrics import check_labels

Strategy = Literal[
    "apart", "half-sure", "rare-first", "k-center", "typiclust", "badge", "entropy", "margin", "random"
]
STRATEGIES: tuple[Strategy, ...] = get_args(Strategy)

COPY = 0.9995
"""Cosine of features from which two chips are copies, of which one label is enough (ours)."""

FAILED = 0.5
"""What a proposal counts for its class that turned out to be of another one (half a label; ours)."""

MOST_COMPARED = 20_000
"""Pool samples that strategies which compare samples with each other draw at random from larger pools (ours)."""

N_HALF_SURE = 20
"""Half-sure samples among which ``apart`` takes the one farthest from the others (ours)."""

N_NEIGHBORS = 20
"""Neighbors by which ``typiclust`` measures how typical a sample is (its authors)."""

MOST_CLUSTERS = 500
"""Clusters of ``typiclust`` (its authors)."""

N_TYPICAL = 5
"""Neighbors by which samples unlike all classes are told from single oddities (ours)."""

SHARED = 0.8
"""By which a sample is worth less for every chosen one that is nearer to it than any known one (ours)."""

UNLIKE = -1
"""Proposed class of a sample that is unlike all classes."""


@dataclass(frozen=True)
class Proposals:
    """Samples to label next, in the order they were chosen.

    Attributes:
        indices: Positions in the pool.
        classes: Class each one is proposed for; :data:`UNLIKE` for none.
        probabilities: Of that class, in [0, 1]; of the most probable one where there is none.
    """

    indices: Int[np.ndarray, " n"]
    classes: Int[np.ndarray, " n"]
    probabilities: Float[np.ndarray, " n"]


def suggest(
    embeddings: Float[np.ndarray, "m d"],
    labels: Int[np.ndarray, " m"],
    pool: Float[np.ndarray, "k d"],
    n: int,
    *,
    strategy: Strategy = "half-sure",
    n_unlike: int = 0,
    units: Sequence[str] = (),
    seed: int = 0,
) -> Proposals:
    """Choose samples of a pool to label next, from features alone.

    The classifier is balanced softmax with penalty and temperature by cross-validation on the labeled samples.

    Args:
        embeddings: Features of the labeled samples.
        labels: Their classes, 0 to ``n_classes - 1``, each with a sample.
        pool: Features of the unlabeled ones.
        n: How many to choose; fewer if the pool has fewer that are no copies.
        strategy: One of :data:`STRATEGIES`.
        n_unlike: How many of them are to be unlike all classes, for classes that have no label yet.
        units: Scene, image or flight of each labeled sample, for the folds.
        seed: Of folds and strategy.

    Raises:
        DataError: If no class has samples for two folds, or features are not finite or all alike.
        ValueError: If shapes, labels, numbers or the strategy do not fit.
    """
    n_classes = int(labels.max()) + 1 if len(labels) else 0
    check_labels(labels, n_classes, name="labels")
    rng = np.random.default_rng(seed)
    with threadpool_limits(limits=1, user_api="blas"):
        found = fit_cross_validated(embeddings, labels, n_classes, rng=rng, units=units)
    return propose(
        found.classifier.logits(pool),
        pool,
        n,
        temperature=found.temperature,
        counts=np.bincount(labels, minlength=n_classes),
        known=embeddings,
        strategy=strategy,
        n_unlike=n_unlike,
        rng=rng,
    )


def propose(
    logits: Float[np.ndarray, "k c"],
    pool: Float[np.ndarray, "k d"],
    n: int,
    *,
    temperature: float,
    counts: Int[np.ndarray, " c"],
    known: Float[np.ndarray, "m d"],
    failed: Int[np.ndarray, " c"] | None = None,
    strategy: Strategy = "half-sure",
    n_unlike: int = 0,
    rng: np.random.Generator,
) -> Proposals:
    """Choose samples of a pool by the logits of a fitted classifier.

    Args:
        logits: Balanced-softmax logits of the pool.
        pool: Features of the pool.
        n: How many to choose.
        temperature: Of the logits, above 0.
        counts: Labels per class so far.
        known: Features of chips that must not be proposed again: labeled ones, and those of validation and test.
        failed: Proposals per class that turned out to be of other classes.
        strategy: One of :data:`STRATEGIES`.
        n_unlike: How many of the ``n`` are to be unlike all classes.
        rng: Source of draws.

    Raises:
        ValueError: If shapes, numbers or the strategy do not fit.
    """
    if strategy not in STRATEGIES:
        raise ValueError(f"strategy is {strategy!r}, known are {', '.join(STRATEGIES)}")
    if n < 1 or not 0 <= n_unlike <= n or not temperature > 0:
        raise ValueError(
            f"n is {n}, n_unlike {n_unlike}, temperature {temperature}; allowed: n >= n_unlike >= 0, T > 0"
        )
    if logits.shape != (len(pool), len(counts)) or known.shape[1:] != pool.shape[1:]:
        raise ValueError(
            f"logits {logits.shape}, pool {pool.shape}, known {known.shape}, {len(counts)} classes differ"
        )
    prior = np.log(np.maximum(counts, 0.5) / max(1, counts.sum()))
    odds = _log_odds(np.asarray(logits, dtype=np.float64) / temperature + prior)
    p = expit(odds)
    taken = _Taken(pool, known)
    need = counts + FAILED * (0 if failed is None else failed)
    unlike = taken.first(_unlike(pool, known, rng), n_unlike) if n_unlike else []
    of_classes = _ORDERS[strategy](_Problem(p, odds, pool, known, need, n, rng, taken))
    found = [*unlike, *taken.first(of_classes, n - len(unlike))]
    chosen, wanted = np.array(found, dtype=np.int64).reshape(-1, 2).T
    likely = np.where(wanted == UNLIKE, p[chosen].argmax(axis=1) if len(chosen) else 0, wanted)
    return Proposals(chosen, wanted, np.asarray(p[chosen, likely], dtype=np.float64))


class _Taken:
    """Which pool samples are chosen, or copies of chosen or known ones."""

    def __init__(self, pool: Float[np.ndarray, "k d"], known: Float[np.ndarray, "m d"]) -> None:
        self._pool = pool
        self._known = _directions(known)
        self.free = np.ones(len(pool), dtype=bool)
        self.n_taken = 0

    def take(self, i: int) -> bool:
        """Mark a sample as used; tell whether it is free and no copy, so that it counts."""
        if not self.free[i]:
            return False
        self.free[i] = False
        own = _directions(self._pool[i : i + 1])
        if len(self._known) and float((self._known @ own[0]).max()) >= COPY:
            return False
        self._known = np.vstack([self._known, own])
        self.n_taken += 1
        return True

    def first(self, order: "Order", n: int) -> list[tuple[int, int]]:
        """Take the first ``n`` samples of an order that count."""
        found: list[tuple[int, int]] = []
        while len(found) < n and (following := next(order, None)) is not None:
            if self.take(following[0]):
                found.append(following)
        return found


@dataclass(frozen=True)
class _Problem:
    """What strategies see: probabilities and their log odds, features, and what each class needs."""

    p: Float[np.ndarray, "k c"]
    odds: Float[np.ndarray, "k c"]
    pool: Float[np.ndarray, "k d"]
    known: Float[np.ndarray, "m d"]
    need: Float[np.ndarray, " c"]
    n: int
    rng: np.random.Generator
    taken: _Taken

    @property
    def some(self) -> Int[np.ndarray, " s"]:
        """Positions of the samples that are compared with each other."""
        n_pool = len(self.pool)
        if n_pool <= MOST_COMPARED:
            return np.arange(n_pool)
        return np.sort(self.rng.choice(n_pool, size=MOST_COMPARED, replace=False))


Order = Iterator[tuple[int, int]]


def _by_class(problem: _Problem, cost: Callable[[Float[np.ndarray, " k"]], Float[np.ndarray, " k"]]) -> Order:
    """Yield for the class in the greatest need the free sample of least cost; its need grows with each that counts."""
    need = problem.need.astype(np.float64)
    queues: dict[int, Iterator[int]] = {}
    while problem.taken.free.any():
        c = int(need.argmin())
        if c not in queues:
            costs = cost(problem.odds[:, c])
            some = len(costs) if len(costs) <= 5000 else 5000
            best = np.argpartition(costs, some - 1)[:some]
            queues[c] = iter(best[np.argsort(costs[best], kind="stable")].tolist())
        i = next((i for i in queues[c] if problem.taken.free[i]), None)
        if i is None:
            need[c] = np.inf
            if np.isinf(need).all():
                return
            continue
        before = problem.taken.n_taken
        yield i, c
        need[c] += problem.taken.n_taken - before


def _ranked(problem: _Problem, cost: Float[np.ndarray, " k"]) -> Order:
    for i in np.argsort(cost, kind="stable").tolist():
        yield i, int(problem.p[i].argmax())


def _half_sure(problem: _Problem) -> Order:
    return _by_class(problem, np.abs)


def _apart(problem: _Problem) -> Order:
    need = problem.need.astype(np.float64)
    costs, x = np.abs(problem.odds), _directions(problem.pool)
    known, near = _directions(problem.known), np.full(len(x), -np.inf, dtype=np.float32)
    free = problem.taken.free
    while free.any():
        c = int(need.argmin())
        left = np.flatnonzero(free)
        nearest = left[np.argpartition(costs[left, c], min(N_HALF_SURE, len(left)) - 1)[:N_HALF_SURE]]
        some = nearest[np.argsort(costs[nearest, c], kind="stable")]
        fresh = some[np.isneginf(near[some])]
        near[fresh] = (x[fresh] @ known.T).max(axis=1) if len(fresh) else 0
        i = int(some[near[some].argmin()])
        before = problem.taken.n_taken
        yield i, c
        if problem.taken.n_taken > before:
            need[c] += 1
            known = np.vstack([known, x[i : i + 1]])
            touched = ~np.isneginf(near)
            near[touched] = np.maximum(near[touched], x[touched] @ x[i])


def _rare_first(problem: _Problem) -> Order:
    return _by_class(problem, np.negative)


def _random(problem: _Problem) -> Order:
    return _ranked(problem, problem.rng.random(len(problem.pool)))


def _entropy(problem: _Problem) -> Order:
    p = problem.p
    return _ranked(problem, (p * np.log(np.maximum(p, 1e-12))).sum(axis=1))


def _margin(problem: _Problem) -> Order:
    best = np.sort(problem.p, axis=1)
    return _ranked(problem, best[:, -1] - best[:, -2] if best.shape[1] > 1 else best[:, -1])


def _k_center(problem: _Problem) -> Order:
    some = problem.some
    x = _standardized(problem.pool[some], problem.known)
    distance = _least_distance(x, _standardized(problem.known, problem.known))
    while np.isfinite(distance).any():
        i = int(np.argmax(np.where(np.isfinite(distance), distance, -np.inf)))
        distance = np.minimum(distance, np.linalg.norm(x - x[i], axis=1))
        distance[i] = -np.inf
        yield int(some[i]), int(problem.p[some[i]].argmax())


def _typiclust(problem: _Problem) -> Order:
    from sklearn.cluster import MiniBatchKMeans

    some = problem.some
    x = _directions(problem.pool[some])
    n_clusters = min(MOST_CLUSTERS, len(problem.known) + problem.n, len(x))
    seed = int(problem.rng.integers(2**31))
    means = MiniBatchKMeans(n_clusters, n_init=1, random_state=seed).fit(x)
    labeled = np.bincount(means.predict(_directions(problem.known)), minlength=n_clusters)
    queues = []
    for cluster in range(n_clusters):
        members = np.flatnonzero(means.labels_ == cluster)
        typical = -_mean_distance(x[members], N_NEIGHBORS)
        queues.append(members[np.argsort(-typical, kind="stable")].tolist())
    sizes = np.array([len(own) for own in queues])
    while any(queues):
        open_ = np.array([bool(own) for own in queues])
        order = np.lexsort((-sizes, np.where(open_, labeled, np.iinfo(np.int64).max)))
        cluster = int(order[0])
        i = int(some[queues[cluster].pop(0)])
        labeled[cluster] += 1
        yield i, int(problem.p[i].argmax())


def _badge(problem: _Problem) -> Order:
    some = problem.some
    h = np.asarray(_standardized(problem.pool[some], problem.known), dtype=np.float64)
    a = -problem.p[some].astype(np.float64)
    a[np.arange(len(a)), a.argmin(axis=1)] += 1
    size_a, size_h = np.square(a).sum(axis=1), np.square(h).sum(axis=1)
    distance = size_a * size_h
    i = int(np.argmax(distance))
    for _ in range(len(some)):
        yield int(some[i]), int(problem.p[some[i]].argmax())
        # ||g_i - g_j||^2 of outer products, without forming them.
        other = size_a * size_h + size_a[i] * size_h[i] - 2 * (a @ a[i]) * (h @ h[i])
        distance = np.minimum(distance, np.maximum(other, 0))
        total = distance.sum()
        if not total > 0:
            break
        i = int(problem.rng.choice(len(some), p=distance / total))
    for i in problem.rng.permutation(len(some)).tolist():
        yield int(some[i]), int(problem.p[some[i]].argmax())


_ORDERS: dict[Strategy, Callable[[_Problem], Order]] = {
    "apart": _apart,
    "half-sure": _half_sure,
    "rare-first": _rare_first,
    "k-center": _k_center,
    "typiclust": _typiclust,
    "badge": _badge,
    "entropy": _entropy,
    "margin": _margin,
    "random": _random,
}


def _unlike(
    pool: Float[np.ndarray, "k d"], known: Float[np.ndarray, "m d"], rng: np.random.Generator
) -> Order:
    """Yield samples that are far from all known ones, but near to some others: a new class, not a single oddity."""
    some = np.arange(len(pool))
    if len(pool) > MOST_COMPARED:
        some = np.sort(rng.choice(len(pool), size=MOST_COMPARED, replace=False))
    x = _directions(pool[some])
    far = _least_distance(x, _directions(known))
    score = far / np.maximum(_mean_distance(x, N_TYPICAL), 1e-9)
    for _ in range(len(some)):
        i = int(np.argmax(score))
        yield int(some[i]), UNLIKE
        score[np.linalg.norm(x - x[i], axis=1) < far] *= SHARED
        score[i] = -np.inf


def _log_odds(z: Float[np.ndarray, "k c"]) -> Float[np.ndarray, "k c"]:
    """Return ``log(p / (1 - p))`` of the softmax: exact where ``p`` itself is rounded to 0 or 1."""
    if z.shape[1] < 2:
        return np.full(z.shape, np.inf, dtype=np.float32)
    whole = logsumexp(z, axis=1, keepdims=True)
    with np.errstate(divide="ignore"):
        others = whole + np.log1p(-np.exp(np.minimum(z - whole, 0)))
    rows, best = np.arange(len(z)), z.argmax(axis=1)
    rest = z.copy()
    rest[rows, best] = -np.inf  # of the likeliest class p may be rounded to 1
    others[rows, best] = logsumexp(rest, axis=1)
    return np.asarray(z - others, dtype=np.float32)


def _directions(x: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
    """Return rows of length 1; rows of zeros stay."""
    x = np.asarray(x, dtype=np.float32)
    return np.asarray(x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12), dtype=np.float32)


def _standardized(x: Float[np.ndarray, "n d"], by: Float[np.ndarray, "m d"]) -> Float[np.ndarray, "n d"]:
    mean, scale = by.mean(axis=0), by.std(axis=0)
    return np.asarray((x - mean) / np.where(scale > 0, scale, 1.0), dtype=np.float32)


def _least_distance(x: Float[np.ndarray, "n d"], others: Float[np.ndarray, "m d"]) -> Float[np.ndarray, " n"]:
    """Return the distance of each row to the nearest of the others, block by block."""
    found = np.empty(len(x))
    size = np.square(others).sum(axis=1)
    block = max(1, 20_000_000 // max(1, len(others)))
    for first in range(0, len(x), block):
        part = x[first : first + block]
        squared = np.square(part).sum(axis=1)[:, None] + size - 2 * part @ others.T
        found[first : first + block] = np.sqrt(np.maximum(squared.min(axis=1), 0))
    return found


def _mean_distance(x: Float[np.ndarray, "n d"], n_neighbors: int) -> Float[np.ndarray, " n"]:
    """Return the mean distance of each row to its nearest others; infinite for a row that is alone."""
    k = min(n_neighbors, len(x) - 1)
    if k < 1:
        return np.full(len(x), np.inf)
    found = np.empty(len(x))
    size = np.square(x).sum(axis=1)
    block = max(1, 20_000_000 // len(x))
    for first in range(0, len(x), block):
        part = x[first : first + block]
        squared = np.square(part).sum(axis=1)[:, None] + size - 2 * part @ x.T
        nearest = np.partition(squared, k, axis=1)[:, : k + 1]
        found[first : first + block] = np.sqrt(np.maximum(nearest, 0)).sum(axis=1) / k
    return found
