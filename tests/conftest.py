"""What all tests share: a home of their own, no network, no telemetry, and the real data where it lies."""

import os
from pathlib import Path

import pytest

from prefopt.tracking.telemetry import silence

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")  # one core for each of two workers
os.environ["OMP_NUM_THREADS"] = "1"  # the models here are small and the tests many: threads would only wait for threads
silence()
ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session", autouse=True)
def _no_test_writes_to_the_checkout(tmp_path_factory: pytest.TempPathFactory) -> None:
    os.environ["PREFOPT_HOME"] = str(tmp_path_factory.mktemp("home"))


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh PREFOPT_HOME."""
    monkeypatch.setenv("PREFOPT_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data; a missing one is a failure, not a skip."""
    folder = Path(os.environ.get("PREFOPT_SHARED_DATA", ROOT.parent / "shared" / "data"))
    assert folder.is_dir(), f"{folder} is missing: set PREFOPT_SHARED_DATA to the folder of real data"
    return folder
