"""How much memory runs take, measured: a step and an evaluation of one run and of two, every live tensor counted."""

import gc
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from nas.config import RetrainConfig, SearchConfig
from nas.data import Dataset
from nas.genotype import Genotype
from nas.halving import trial
from nas.scoring import JUDGED_ROWS, at_once, val_scores
from nas.searching import Search
from nas.training import EVALUATION_ROWS, Training, fixed_network


@dataclass(frozen=True)
class RunMemory:
    """Bytes that a batch of runs takes at its peak: base_bytes once, bytes_per_run for every run."""

    base_bytes: int
    bytes_per_run: int

    def fitting(self, available_bytes: int) -> int:
        """Return how many runs fit; 0 where not even one does."""
        return max(0, (available_bytes - self.base_bytes) // self.bytes_per_run)


def search_memory(data: Dataset, config: SearchConfig) -> RunMemory:
    """Return what searches with this config take beside the data set: a step, the derivation of one run, and trials."""

    def work(runs: int) -> None:
        Search(data, [config] * runs, tuple(range(runs))).step(searching=True)

    taken = _measure(work)
    state = Search(data, [config], (0,))
    one_part = replace(data, val=data.val[:JUDGED_ROWS])
    judged = state.supernet.architecture.derive() * at_once(data)
    weights = state.supernet.fusion.state_dict()
    taken = replace(taken, base_bytes=taken.base_bytes + _peak_bytes(lambda: val_scores(one_part, judged, weights)))
    if not config.rungs:
        return taken

    def try_out(runs: int) -> None:
        of_trial = trial(data, judged[:1] * runs, config)
        of_trial.step()
        of_trial.evaluate(data.val[:EVALUATION_ROWS])

    beside = _measure(try_out)
    per_run = taken.bytes_per_run + config.begun * beside.bytes_per_run
    return RunMemory(taken.base_bytes + beside.base_bytes, per_run)


def retrain_memory(data: Dataset, config: RetrainConfig, genotype: Genotype, *, same_seed: bool) -> RunMemory:
    """Return what trainings of the genotype take beside the data set; those of one seed share their minibatches."""

    def work(runs: int) -> None:
        seeds = (0,) * runs if same_seed else tuple(range(runs))
        state = Training(data, config, fixed_network(data, config, [genotype] * runs, seeds), seeds)
        state.step()
        state.evaluate(data.val[:EVALUATION_ROWS])

    return _measure(work)


def _measure(work: Callable[[int], None]) -> RunMemory:
    one, two = (_peak_bytes(lambda r=runs: work(r)) for runs in (1, 2))  # type: ignore[misc]
    return RunMemory(max(0, 2 * one - two), max(1, two - one))


def _peak_bytes(work: Callable[[], object]) -> int:
    """Return the bytes of the tensors that were alive at once, at most, while `work` ran."""
    gc.collect()
    tensors = _LiveTensors()
    with tensors:
        work()
    return tensors.peak


class _LiveTensors(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows every tensor that an operation makes until its storage is freed, on any device."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak: int = 0
        self._live: dict[int, tuple[StorageWeakRef, int]] = {}
        self._bytes: int = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                reference = StorageWeakRef(storage)  # type: ignore[no-untyped-call]
                _, counted = self._live.get(reference.cdata, (None, 0))
                self._live[reference.cdata] = (reference, storage.nbytes())
                self._bytes += storage.nbytes() - counted
        if self._bytes > self.peak:  # else not even with what has been freed since is this a peak
            self._live = {
                key: entry
                for key, entry in self._live.items()
                if not entry[0].expired()  # type: ignore[no-untyped-call]
            }
            self._bytes = sum(size for _, size in self._live.values())
            self.peak = max(self.peak, self._bytes)
        return out
