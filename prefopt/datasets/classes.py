"""Classification data: an instance is a context, the classes are its responses, and a label is which one is chosen."""

from abc import ABC, abstractmethod
from typing import ClassVar

import numpy as np
import sklearn.datasets
import torch
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

from prefopt.batch import Choices, Groups
from prefopt.datasets.data import Data
from prefopt.datasets.exact import ExactWorld, chosen
from prefopt.errors import PrefoptError
from prefopt.store import digest


class ClassesWorld(ExactWorld):
    """features: [N, K, d] of the instance, the same for each class. rewards: [N, K] 1 for its class, 0 for others.
    reference: [N, K] log-probs (uniform)."""

    temperature = 1.0

    def __init__(self, features: np.ndarray, classes: np.ndarray) -> None:
        size, K = len(classes), int(classes.max()) + 1
        self.features = torch.from_numpy(features)[:, None].expand(size, K, -1)
        self.rewards = torch.from_numpy(np.eye(K)[classes])
        self.reference = torch.full((size, K), -np.log(K), dtype=torch.float64)


class Classes(ABC):
    """A dataset whose training instances, and then those held out, are contexts 0, 1, ..."""

    world: ClassVar[str] = "exact"
    has_gold: ClassVar[bool] = True
    gives: ClassVar[frozenset[type[Groups]]] = frozenset({Choices})
    seed: int

    @abstractmethod
    def _drawn(self) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
        """Features [N, d] and classes [N], of training and of held-out instances."""

    def load(self, tokenizer: None = None) -> Data:
        (train, its_classes), (test, others) = self._drawn()
        world = ClassesWorld(np.concatenate([train, test]), np.concatenate([its_classes, others]))
        rows = np.split(np.arange(len(train) + len(test)), [len(train)])
        return Data(
            chosen(world, f"classes-{self.seed}-train", rows[0], its_classes),
            chosen(world, f"classes-{self.seed}-test", rows[1], others),
            world=world,
            counts={"train/used": len(train), "test/used": len(test)},
        )

    def checksum(self) -> str:
        return digest([type(self).__name__, vars(self)])


class Prototypes(Classes):
    """conf/dataset/prototypes.yaml: normal clouds of standard deviation 1 around prototypes, `clouds` to a class.

    Args: instances, test_instances: how many. classes, dimension: K and d. scale: standard deviation of a prototype's
    coordinates. seed: of prototypes and instances.
    """

    def __init__(
        self,
        *,
        instances: int = 3000,
        test_instances: int = 4000,
        classes: int = 10,
        clouds: int = 2,
        dimension: int = 16,
        scale: float = 1.1,
        seed: int = 0,
    ) -> None:
        for key, value, least in (
            ("instances", instances, classes * clouds),
            ("test_instances", test_instances, 1),
            ("classes", classes, 2),
            ("clouds", clouds, 1),
            ("dimension", dimension, 1),
        ):
            if value < least:
                raise PrefoptError(f"dataset.{key}={value} is too few", f"give at least {least}")
        self.instances, self.test_instances, self.seed = instances, test_instances, seed
        self.classes, self.clouds, self.dimension, self.scale = classes, clouds, dimension, scale

    def _drawn(self) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
        shape = (self.classes * self.clouds, self.dimension)
        prototypes = self.scale * np.random.default_rng([self.seed, 0]).standard_normal(shape)

        def instances(size: int, part: int) -> tuple[np.ndarray, np.ndarray]:
            state = int(np.random.SeedSequence([self.seed, part]).generate_state(1)[0])
            x, cloud = sklearn.datasets.make_blobs(size, centers=prototypes, random_state=state)
            return x, cloud % self.classes

        return instances(self.instances, 1), instances(self.test_instances, 2)


class Bundled(Classes):
    """conf/dataset/digits.yaml: data that come with scikit-learn, their features standardised on the training part.

    Args: name: digits, wine, breast_cancer or iris. held_out: share of the instances, of each class alike. seed: of the
    split.
    """

    NAMES = ("digits", "wine", "breast_cancer", "iris")

    def __init__(self, *, name: str = "digits", held_out: float = 0.3, seed: int = 0) -> None:
        if name not in self.NAMES:
            raise PrefoptError(f"dataset.name={name} does not come with scikit-learn", f"take {', '.join(self.NAMES)}")
        if not 0 < held_out < 1:
            raise PrefoptError(f"dataset.held_out={held_out} is no share", "give a number between 0 and 1")
        self.name, self.held_out, self.seed = name, held_out, seed

    def _drawn(self) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
        x, y = getattr(sklearn.datasets, f"load_{self.name}")(return_X_y=True)
        train, test, its_classes, others = train_test_split(
            x, y, test_size=self.held_out, stratify=y, random_state=self.seed
        )
        scaler = StandardScaler().fit(train)
        return (scaler.transform(train), its_classes), (scaler.transform(test), others)
