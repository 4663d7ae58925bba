"""One thin layer over ``transformers.Trainer``: an objective in, loss by step out, exact resume after a kill.

Trainer brings devices, mixed precision, processes and checkpoints. Ours is only what keeps checkpoints small (the
trainable weights, as safetensors) and the order of samples fixed (``samples.TrainingOrder``).
"""

import errno
import json
import logging
import math
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from safetensors.torch import load_file, save
from torch import distributed, nn
from torch.utils.data import DataLoader, Dataset, Sampler, SequentialSampler

from deblora.errors import ModelError
from deblora.files import file_sha256, sync, write_atomic
from deblora.progress import no_bar, titled


class SharedBatches(Sampler[list[int]]):
    """The part of each batch that one process sees; together the processes see the batches of a single one.

    Batch ``s`` holds the samples ``s B ... s B + B - 1``; process ``r`` of ``R`` sees those from ``floor(B r / R)`` to
    ``floor(B (r + 1) / R)`` of them. The number of processes need not divide ``B``.

    Args:
        n_samples: Samples in all, a multiple of ``batch_size``.
        batch_size: ``B``, at least ``n_processes``.
        rank: ``r``, from 0.
        n_processes: ``R``.
    """

    def __init__(self, n_samples: int, batch_size: int, *, rank: int, n_processes: int) -> None:
        if batch_size < n_processes or n_samples % batch_size:
            raise ValueError(
                f"{n_samples} samples in batches of {batch_size} cannot be shared by {n_processes} processes"
            )
        self.n_samples, self.batch_size = n_samples, batch_size
        self.first = batch_size * rank // n_processes
        self.stop = batch_size * (rank + 1) // n_processes

    def __len__(self) -> int:
        """Return the number of batches."""
        return self.n_samples // self.batch_size

    def __iter__(self) -> Iterator[list[int]]:
        """Return the positions of each batch that this process sees."""
        for start in range(0, self.n_samples, self.batch_size):
            yield list(range(start + self.first, start + self.stop))


def loss_of_whole_batch(
    outputs: Mapping[str, torch.Tensor], n_samples: int, n_processes: int
) -> Float[torch.Tensor, ""]:
    """Return the loss of this process, scaled so that the mean over processes is the loss of the whole batch.

    With means ``l_r`` of total weight ``w_r`` the whole batch has ``sum_r w_r l_r / sum_r w_r``, and its gradient is
    the mean of the processes' gradients if each minimizes ``R w_r / (sum_q w_q) l_r``.

    Args:
        outputs: ``loss``, and ``weight`` where the loss is a weighted mean.
        n_samples: Samples of this process, the weight of a plain mean.
        n_processes: ``R``.
    """
    loss = outputs["loss"]
    weight = torch.as_tensor(outputs.get("weight", float(n_samples)), dtype=torch.float32, device=loss.device)
    weight = weight.detach().clone()
    total = weight.clone()
    distributed.all_reduce(total)
    scaled: Float[torch.Tensor, ""] = loss * (n_processes * weight / total)
    return scaled


log = logging.getLogger("deblora")
WEIGHTS, SEAL = "trainable.safetensors", "whole.json"


def train(
    objective: nn.Module,
    samples: Dataset[dict[str, torch.Tensor]],
    *,
    folder: Path,
    n_steps: int,
    batch_size: int,
    learning_rate: float,
    checkpointing_steps: int = 100,
    seed: int = 0,
    mixed_precision: str = "no",
    optimizer: Literal["adamw", "sgd"] = "adamw",
    after_step: Callable[[int], None] | None = None,
    n_workers: int = 0,
) -> list[tuple[int, float]]:
    """Minimize an objective over the trainable weights it holds.

    AdamW without weight decay, cosine schedule with 5 % warm-up (our choice; the paper's schedule is unknown).
    A run that was killed goes on from its last whole checkpoint in ``folder`` to the same weights.

    Where ``torch.distributed`` connects several processes, each of them must call this with the same arguments: every
    batch is divided among them, gradients and losses are those of the whole batch, and the first one writes.

    Args:
        objective: Module whose forward takes a batch by name and returns ``{"loss": ...}``, a mean over its samples;
            a weighted mean also returns the sum of the weights as ``"weight"``.
        samples: Exactly ``n_steps * batch_size`` samples, in the order they are to be seen.
        folder: Where checkpoints live while training runs.
        n_steps: Optimizer steps.
        batch_size: Samples per step, over all processes.
        learning_rate: Peak learning rate.
        checkpointing_steps: Steps between checkpoints.
        seed: Seed of dropout.
        mixed_precision: ``no``, ``bf16`` (also on CPUs) or ``fp16``.
        optimizer: AdamW, or SGD with momentum .9 and weight decay 5e-4 (LIFT, arXiv 2309.10019).
        after_step: Called with the number of the step before its gradients are set to zero. What it keeps to itself is
            in no checkpoint, so such a training starts over when it was killed.
        n_workers: Processes that prepare samples while the step before runs; 0 prepares them in between. Samples that
            need the accelerator need 0. The weights do not depend on it.

    Returns:
        ``(step, mean loss since the last record)``, about fifty records.

    Raises:
        ModelError: If the machine lacks the precision, a batch has fewer samples than there are processes, several
            processes meet a trainable weight without a gradient, or the loss is no longer finite.
        OSError: If a checkpoint cannot be written.
    """
    from transformers import TrainingArguments

    on_cpu = not torch.cuda.is_available()
    if mixed_precision == "fp16" and on_cpu:
        raise ModelError("mixed precision fp16 needs a GPU and none is found; set it to 'no' or to 'bf16'")
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=n_steps,
        per_device_train_batch_size=batch_size,
        learning_rate=learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=max(1, n_steps // 20),
        weight_decay=0.0,
        logging_steps=max(1, n_steps // 50),
        save_steps=checkpointing_steps,
        save_strategy="no" if after_step else "steps",
        save_total_limit=2,
        seed=seed,
        report_to=[],
        remove_unused_columns=False,
        dataloader_num_workers=n_workers,
        dataloader_pin_memory=False,
        bf16=mixed_precision == "bf16",
        fp16=mixed_precision == "fp16",
        use_cpu=not torch.cuda.is_available(),  # else Trainer sees no other process on CPUs
        ddp_find_unused_parameters=False,
        disable_tqdm=no_bar(short=n_steps < 20),
        log_level="error",
        log_level_replica="error",
    )
    if batch_size < arguments.world_size:
        raise ModelError(
            f"{arguments.world_size} processes cannot share batches of {batch_size}; start fewer, or raise it"
        )
    # One process uses one GPU: Trainer would multiply the batch by the number of those it sees.
    arguments._n_gpu = min(1, arguments.n_gpu)
    with arguments.main_process_first(local=False):  # the first process drops what is not whole, and says so
        last = _last_whole(folder)
    with torch.random.fork_rng(devices=[]):  # Trainer seeds the global generator
        trainer = _trainer_class()(
            model=objective,
            args=arguments,
            train_dataset=samples,
            optimizers=(_sgd(objective, learning_rate) if optimizer == "sgd" else None, None),
        )
        _quiet(trainer)
        if after_step is not None:
            trainer.add_callback(_step_callback(after_step))
        try:
            trainer.train(resume_from_checkpoint=None if after_step else last)
        except RuntimeError as error:
            if "find_unused_parameters" not in str(error):
                raise
            raise ModelError(
                "several processes cannot train an adapter in a module that no feature depends on; leave it out of the "
                "targets, or train in one process"
            ) from error
    records = [(int(row["step"]), float(row["loss"])) for row in trainer.state.log_history if "loss" in row]
    wrong = [step for step, loss in records if not math.isfinite(loss)]
    if wrong:
        raise ModelError(
            f"the loss is not finite at step {wrong[0]}; lower the learning rate, {learning_rate:g}"
        )
    return records


def _sgd(objective: nn.Module, learning_rate: float) -> torch.optim.SGD:
    trainable = [p for p in objective.parameters() if p.requires_grad]
    return torch.optim.SGD(trainable, lr=learning_rate, momentum=0.9, weight_decay=5e-4)


def _step_callback(after_step: Callable[[int], None]) -> Any:
    from transformers import TrainerCallback

    class AfterStep(TrainerCallback):
        """Hands on the number of every step that the optimizer has taken."""

        def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
            """Gradients are still there."""
            after_step(state.global_step + 1)

    return AfterStep()


def _quiet(trainer: Any) -> None:
    from transformers.trainer_callback import PrinterCallback, ProgressCallback

    trainer.remove_callback(PrinterCallback)
    if not trainer.args.disable_tqdm:
        trainer.remove_callback(ProgressCallback)
        trainer.add_callback(_silent_progress(ProgressCallback)())


def _silent_progress(base: type) -> type:
    class Progress(base):
        """A progress bar that names its run and does not print every log record."""

        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            """Name the bar."""
            super().on_train_begin(args, state, control, **kwargs)
            if self.training_bar is not None:
                self.training_bar.set_description(titled("train"))

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:  # noqa: ARG002
            """Show the loss on the bar."""
            if state.is_world_process_zero and self.training_bar is not None and logs and "loss" in logs:
                self.training_bar.set_postfix(loss=f"{float(logs['loss']):.3f}")

    return Progress


def _last_whole(folder: Path) -> str | None:
    """Return the newest checkpoint whose files are those that its seal names; newer ones are dropped and named."""
    found = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]), reverse=True)
    dropped = ""
    for checkpoint in found:
        fault = _fault(checkpoint)
        if not fault:
            if dropped:
                log.warning("train: %s; training goes on from %s", dropped, checkpoint.name)
            return str(checkpoint)
        dropped = f"{checkpoint.name} is not whole ({fault})"
        shutil.rmtree(checkpoint, ignore_errors=True)
    if dropped:
        log.warning("train: %s, and there is no other checkpoint; training starts over", dropped)
    return None


def _seal(checkpoint: Path, arguments: Any) -> None:
    """Wait until the files of a checkpoint lie on the disk, and write down their hashes: from then on it counts."""
    if arguments.world_size > 1:
        distributed.barrier()  # each process writes the state of its own generator
    if not arguments.should_save:
        return
    digests = {}
    for file in sorted(checkpoint.iterdir()):
        sync(file)
        digests[file.name] = file_sha256(file)
    write_atomic(checkpoint / SEAL, json.dumps(digests, indent=1))


def _fault(checkpoint: Path) -> str:
    """Return what keeps a checkpoint from being used, or nothing."""
    try:
        digests = dict(json.loads((checkpoint / SEAL).read_text(encoding="utf-8")))
        for name, digest in digests.items():
            if not (checkpoint / name).is_file():
                return f"{name} is missing"
            if file_sha256(checkpoint / name) != digest:
                return f"{name} is not what was written"
    except FileNotFoundError:
        return "its writing was interrupted"
    except (OSError, ValueError, TypeError):
        return f"{SEAL} is damaged"
    return "" if digests else f"{SEAL} is damaged"


def _trainer_class() -> type:
    from transformers import Trainer

    class AdapterTrainer(Trainer):
        """Saves and restores the trainable weights only, and keeps the samples in order."""

        def _get_train_sampler(self, train_dataset: Any = None) -> SequentialSampler:
            return SequentialSampler(train_dataset if train_dataset is not None else self.train_dataset)

        def get_train_dataloader(self) -> DataLoader[Any]:
            if self.args.world_size == 1:
                return super().get_train_dataloader()
            batches = SharedBatches(
                len(self.train_dataset),
                self.args.per_device_train_batch_size,
                rank=self.args.process_index,
                n_processes=self.args.world_size,
            )
            return DataLoader(
                self.train_dataset,
                batch_sampler=batches,
                collate_fn=self.data_collator,
                num_workers=self.args.dataloader_num_workers,
            )

        def compute_loss(self, model: Any, inputs: Any, *more: Any, **named: Any) -> Any:
            if self.args.world_size == 1:
                return super().compute_loss(model, inputs, *more, **named)
            outputs = model(**inputs)
            return loss_of_whole_batch(outputs, len(next(iter(inputs.values()))), self.args.world_size)

        def _save_checkpoint(self, model: Any, trial: Any) -> None:
            try:
                super()._save_checkpoint(model, trial)
            except RuntimeError as error:  # how torch.save reports a full disk
                reason = f"a checkpoint cannot be written ({str(error)[:200]})"
                raise OSError(errno.ENOSPC, reason, str(self.args.output_dir)) from error
            _seal(Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}", self.args)

        def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:  # noqa: ARG002
            _save_trainable(
                self.accelerator.unwrap_model(self.model), Path(output_dir or self.args.output_dir)
            )

        def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
            target = self.accelerator.unwrap_model(model if model is not None else self.model)
            _load_trainable(target, Path(resume_from_checkpoint))

    return AdapterTrainer


def _save_trainable(module: nn.Module, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    # Weights may lie in memory as channels_last, which safetensors does not store.
    weights = {
        name: p.detach().cpu().contiguous() for name, p in module.named_parameters() if p.requires_grad
    }
    write_atomic(folder / WEIGHTS, save(weights))


def _load_trainable(module: nn.Module, folder: Path) -> None:
    weights = load_file(folder / WEIGHTS)
    trainable = {name: p for name, p in module.named_parameters() if p.requires_grad}
    if set(trainable) != set(weights):
        raise ValueError(f"checkpoint {folder} holds other weights than the objective")
    with torch.no_grad():
        for name, parameter in trainable.items():
            parameter.copy_(weights[name])


ORTHOGONALITY = 0.5
"""Weight of the penalty (peft's default; the paper tries .1 to .5)."""


class Orthogonal(nn.Module):
    """An objective plus ``weight * mean(||P' P - I||_F + ||Q Q' - I||_F)`` over the factors of AdaLoRA.

    Args:
        objective: Returns ``{"loss": scalar}``; holds the adapted model.
        weight: Of the penalty, >= 0.
    """

    accepts_loss_kwargs = False  # else Trainer adds arguments of its own to a forward that takes any

    def __init__(self, objective: nn.Module, *, weight: float = ORTHOGONALITY) -> None:
        super().__init__()
        self.objective, self.weight = objective, weight

    def forward(self, **batch: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the penalized loss of a batch."""
        loss = self.objective(**batch)["loss"]
        return {"loss": loss + self.weight * orthogonality(self.objective)}


def orthogonality(module: nn.Module) -> torch.Tensor:
    """Return the mean distance of AdaLoRA's factors from orthonormal ones, 0 where there are none."""
    found = []
    for name, factor in module.named_parameters():
        if not factor.requires_grad or not (".lora_A." in name or ".lora_B." in name):
            continue
        gram = factor @ factor.T if ".lora_A." in name else factor.T @ factor
        found.append(torch.linalg.norm(gram - torch.eye(len(gram), device=gram.device)))
    return torch.stack(found).mean() if found else torch.zeros(())


def rank_schedule(encoder: Any) -> Callable[[int], None] | None:
    """Return what lowers the ranks after optimizer step ``i`` (from 1 on), or ``None`` without AdaLoRA.

    It reads the gradients of the step, so it has to be called before they are set to zero.
    """
    update = getattr(getattr(encoder, "base_model", None), "update_and_allocate", None)
    return None if update is None else lambda step: update(step)
