"""Weights for a running vLLM: `reload` in this process, and the worker extension of a server, called by HTTP.

A server is started with `--worker-extension-cls r1lab.engines.worker.Weights` and `VLLM_SERVER_DEV_MODE=1`; then
`POST /collective_rpc` calls the methods of `Weights` in each of its workers. An exception in one of them would end the
whole server, so they return `{"error": ...}` instead. `r1lab.engines.sync` calls them.
"""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

EXTENSION = "r1lab.engines.worker.Weights"
_HEAD = "lm_head.weight"


def reload(runner, weights: Iterable[tuple]) -> None:
    """Loads new weights into vLLM, all at once.

    vLLM restores each layer, loads, and repacks it. If a call brings only some of the weights of a layer, the others
    are then whatever the memory held before, so one call has to bring all.

    Args:
        runner: vLLM's model runner.
        weights: `(name, tensor)` pairs, named and shaped as in the checkpoint.
    """
    runner.reload_weights(weights_iterator=weights)
    # A head tied to the embedding has no weight in the checkpoint, so vLLM 0.31 does not reload it: the shared storage
    # is new, but the CPU backend's packed copy for the matrix product is still the old one.
    model = runner.get_model()
    if model.config.tie_word_embeddings and model.lm_head.weight.device.type == "cpu":
        model.lm_head.quant_method.process_weights_after_loading(model.lm_head)


def checksum(file: Path) -> str:
    """Returns the XXH3 checksum of a file, 16 hexadecimal digits."""
    import xxhash

    found = xxhash.xxh3_64()
    with file.open("rb") as data:
        while part := data.read(2**24):
            found.update(part)
    return found.hexdigest()


def total(checksums: Iterable[str]) -> str:
    """Returns one checksum for those of all files of a version, in their order."""
    import xxhash

    return xxhash.xxh3_64_hexdigest("".join(checksums).encode())


class Weights:
    """Methods that vLLM adds to each of its workers."""

    model_runner: Any  # vLLM's
    model_config: Any
    _r1lab_loaded: dict[str, Any] = {"version": None, "checksum": None}
    _r1lab_shapes: dict[str, tuple[int, ...]] | None = None

    def weights(self) -> dict[str, Any]:
        """Returns the version of the weights and their checksum; both are None before the first load, and after a
        load that failed half-way."""
        return dict(self._r1lab_loaded)

    def load(self, version: int, files: list[list[str]]) -> dict[str, Any]:
        """Loads a version of the weights. Nothing is changed until all files are found to be right and complete.

        Args:
            version: Its number.
            files: The path and the `checksum` of each safetensors file; together they hold all weights.

        Returns:
            What `weights` returns, or `{"error": why}`.
        """
        try:
            with ExitStack() as stack:
                opened = [_opened(stack, Path(path), wanted) for path, wanted in files]
                shapes = {name: tuple(f.get_slice(name).get_shape()) for f in opened for name in f.keys()}  # noqa: SIM118
                if problem := self._problem(shapes):
                    return {"error": problem}
                self._r1lab_loaded = {"version": None, "checksum": None}
                reload(self.model_runner, _tensors(opened))
            self._r1lab_shapes = shapes
            self._r1lab_loaded = {"version": version, "checksum": total(wanted for _, wanted in files)}
            return self.weights()
        except BaseException as error:  # any that left this method would end the server
            return {"error": f"{type(error).__name__}: {error}"}

    def _problem(self, shapes: dict[str, tuple[int, ...]]) -> str | None:
        """Returns why weights of these names and shapes are not those of the model; None if they are.

        They are compared with those of the last load, or of the checkpoint with which the server was started if it is
        a folder with safetensors files that has the same names.
        """
        known = self._r1lab_shapes or _checkpoint(Path(self.model_config.model))
        if not known.keys() & shapes.keys():
            return "there are no weights" if not shapes else None
        tied = {_HEAD} if self.model_runner.get_model().config.tie_word_embeddings else set()
        if missing := sorted(known.keys() - shapes.keys() - tied):
            return f"{len(missing)} weights are missing, as {missing[0]}"
        if unknown := sorted(shapes.keys() - known.keys() - {_HEAD}):
            return f"{len(unknown)} weights are unknown, as {unknown[0]}"
        for name, shape in shapes.items():
            if shape != known.get(name, shape):
                return f"{name} has the shape {list(shape)} in place of {list(known[name])}"
        return None


def _opened(stack: ExitStack, file: Path, wanted: str):
    from safetensors import safe_open

    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such file")
    if (found := checksum(file)) != wanted:
        raise ValueError(f"{file}: its checksum is {found} in place of {wanted}")
    return stack.enter_context(safe_open(file, framework="pt"))


def _tensors(files: list) -> Iterator[tuple]:
    for file in files:
        for name in file.keys():  # noqa: SIM118
            yield name, file.get_tensor(name)


def _checkpoint(folder: Path) -> dict[str, tuple[int, ...]]:
    """The names and shapes of a checkpoint's parameters; empty if it has no safetensors files."""
    from safetensors import safe_open

    found = {}
    for path in folder.glob("*.safetensors"):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118
                if name.endswith((".weight", ".bias")):  # old checkpoints have buffers too, such as `inv_freq`
                    found[name] = tuple(file.get_slice(name).get_shape())
    return found
