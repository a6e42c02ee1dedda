"""The database behind MLflow: made once, and refused where another MLflow wrote it."""

from pathlib import Path

from filelock import FileLock

from prefopt.errors import PrefoptError

SQLITE = "sqlite:///"


def store_uri(home: Path) -> str:
    """The local store."""
    return f"{SQLITE}{home.absolute() / 'mlflow.db'}"


def prepare(uri: str) -> None:
    """Make the SQLite store of this URI where there is none, once for all processes: whole, or not there.

    Raises PrefoptError where the database of this URI has a schema that the installed MLflow does not work with.
    """
    if uri.startswith(SQLITE):
        _create(Path(uri.removeprefix(SQLITE)))
    from mlflow.store.db.db_types import DATABASE_ENGINES

    if uri.partition(":")[0].partition("+")[0] in DATABASE_ENGINES:
        _check_schema(uri)


def _create(path: Path) -> None:
    if path.exists():
        return
    from mlflow import MlflowClient

    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):
        if path.exists():
            return
        beside = path.with_suffix(".part")
        beside.unlink(missing_ok=True)
        MlflowClient(tracking_uri=f"{SQLITE}{beside}").search_experiments(max_results=1)
        beside.rename(path)


def _check_schema(uri: str) -> None:
    import mlflow
    from alembic.migration import MigrationContext
    from alembic.script import ScriptDirectory
    from sqlalchemy import create_engine

    engine = create_engine(uri)
    with engine.connect() as connection:
        revision = MigrationContext.configure(connection).get_current_revision()
    engine.dispose()
    scripts = ScriptDirectory(str(Path(mlflow.__file__).parent / "store" / "db_migrations"))
    if revision is None or revision in scripts.get_heads():
        return
    place, version = engine.url.render_as_string(), mlflow.__version__
    if revision not in {script.revision for script in scripts.walk_revisions()}:
        raise PrefoptError(
            f"{place} was written by a newer MLflow than the {version} that is installed (schema {revision})",
            "install the MLflow that wrote it, or choose another store: tracking.uri=sqlite:////path/to/new.db",
        )
    raise PrefoptError(
        f"{place} was written by an older MLflow than the {version} that is installed (schema {revision})",
        "copy the database as a backup, then: python -m mlflow db upgrade URI",
    )
