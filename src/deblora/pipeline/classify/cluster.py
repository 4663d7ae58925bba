"""Stage ``cluster``: K-means with a size floor, or DBSCAN, on all training features; labels ignored."""

from deblora.debias.density import density_clusters
from deblora.debias.kmeans.estimator import cluster_features
from deblora.errors import DataError
from deblora.pipeline.audited import read_audited
from deblora.recipe.classify import ClusterRecipe, Recipe
from deblora.run.artifacts import Clusters, FeatureTable
from deblora.run.run_dir import RunDir
from deblora.run.stage import Stage


def check_n_clusters(settings: ClusterRecipe, n_chips: int) -> None:
    """Check that every cluster can have a training chip.

    Raises:
        DataError: If there are fewer chips than clusters.
    """
    if settings.method == "kmeans" and settings.n_clusters > n_chips:
        raise DataError(
            f"cluster.n_clusters is {settings.n_clusters}, but there are only {n_chips} training chips; lower it"
        )


def _work(run: RunDir, recipe: Recipe) -> None:
    ids = read_audited(run).split("train").ids
    settings = recipe.cluster
    table = FeatureTable.load(run.features("lora"))
    if settings.method == "dbscan":
        assignments, centers, inertia = density_clusters(
            table.rows(ids), eps=settings.eps, min_samples=settings.min_samples, space=settings.space
        )
        Clusters(ids, assignments, centers, 0, inertia).save(run.clusters)
        return
    check_n_clusters(settings, len(ids))
    assignments, centers, min_size, inertia = cluster_features(
        table.view(ids),
        n_clusters=settings.n_clusters,
        rho=settings.rho,
        space=settings.space,
        n_init=settings.n_init,
        seed=recipe.seed,
    )
    Clusters(ids, assignments, centers, min_size, inertia).save(run.clusters)


STAGE = Stage(
    name="cluster",
    settings=lambda recipe: recipe.cluster.__dict__,
    inputs=lambda run: [run.samples, run.groups, run.features("lora")],
    outputs=lambda run: [run.clusters],
    work=_work,
)
