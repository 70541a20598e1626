"""How alike the classes of a model's images are."""

import numpy as np
import torch

from advlens.auditing.subjects import Subject
from advlens.consistency import Similarity
from advlens.errors import DataError
from advlens.settings import AuditSettings
from advlens.settings.audit import NEAREST
from advlens.similarity import Matrix, check_definite, gaussian, nearest_definite, read_similarity
from advlens.wordnet import distance_matrix, similarity_matrix


def similarity_of(subject: Subject, settings: AuditSettings) -> Similarity:
    """The similarity C that the settings ask for; without WordNet ids, that of same-class.

    A note says how far the nearest positive definite matrix lies from that of the file or WordNet.

    Raises:
        DataError: the file cannot be read or does not fit the classes; or WordNet does not know
            them, though its similarity is asked for.
        NumericError: C is not positive definite.
        SettingsError: a sigma means nothing to the file.
    """
    data, path = subject.data, settings.similarity_file
    if path is not None:
        given = read_similarity(path, data.classes, data.synsets, settings.sigma)
        if str(settings.similarity).startswith(f"{NEAREST}:"):
            return torch.from_numpy(_nearest(subject, given, f"that of {path}"))
        check_definite(
            given,
            f"the similarity of {len(given)} classes in {path}",
            f"give its nearest positive definite matrix, --similarity {NEAREST}:{path}, or, of "
            "distances, a smaller sigma",
        )
        return torch.from_numpy(given)
    if settings.similarity == NEAREST:
        if data.synsets is None:
            raise DataError(f"--similarity {NEAREST} is that of WordNet: {subject.unnamed}")
        distinct, places = np.unique(data.synsets, return_inverse=True)
        given = gaussian(distance_matrix(distinct.tolist()), settings.sigma)
        nearest = _nearest(subject, given, "that of WordNet")
        return torch.from_numpy(nearest[np.ix_(places, places)])
    if settings.similarity is None and data.synsets is not None:
        return torch.from_numpy(similarity_matrix(data.synsets, settings.sigma))
    return torch.eye(len(data.classes), dtype=torch.float64)


def _nearest(subject: Subject, given: Matrix, whose: str) -> Matrix:
    nearest = nearest_definite(given)
    note = (
        f"The similarity of classes is the positive definite matrix nearest to {whose}; no value "
        f"differs by more than {np.abs(nearest - given).max():.2g}."
    )
    subject.notes += [note] if note not in subject.notes else []
    return nearest
