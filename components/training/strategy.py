"""DeepSpeed ZeRO under Lightning, on CUDA devices and, through gloo, on CPU ranks."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, cast

import deepspeed
import torch
from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler, LossScaler
from deepspeed.runtime.zero.config import ZeroStageEnum
from deepspeed.utils.tensor_fragment import fragment_address, safe_get_full_optimizer_state
from lightning.fabric.utilities.seed import reset_seed
from lightning.pytorch.plugins.environments import TorchElasticEnvironment
from lightning.pytorch.strategies import DeepSpeedStrategy
from torch import Tensor, nn
from torch.optim import Optimizer

from components.params import TrainParams
from components.training.averages import AVERAGE
from components.training.checkpoints.universal_form import complete, is_universal

_SHARED_MEMORY_OP = "deepspeed_shm_comm"
CHECKPOINT_CLASSES = [ZeroStageEnum, fragment_address, LossScaler, DynamicLossScaler]
_BUCKET = 50_000_000  # elements


class ZeroStrategy(DeepSpeedStrategy):
    """Lightning's DeepSpeed strategy for CUDA; `CpuZeroStrategy` is its twin without a GPU."""

    def __init__(self, train: TrainParams, backend: str, *, universal: bool = False) -> None:
        """`universal`: the checkpoint to go on from is in DeepSpeed's universal form."""
        on_gpu = backend == "nccl"
        super().__init__(
            stage=train.zero_stage,
            offload_optimizer=train.offload != "none",
            offload_parameters=train.offload == "parameters",
            pin_memory=on_gpu,
            exclude_frozen_parameters=True,
            cluster_environment=TorchElasticEnvironment(),
            logging_batch_size_per_gpu=1,  # only for DeepSpeed's own speed log, which is off
            process_group_backend=backend,
            overlap_comm=on_gpu,
            reduce_bucket_size=_BUCKET,
            allgather_bucket_size=_BUCKET,
        )
        config = cast("dict[str, object]", self.config)
        config["zero_force_ds_cpu_optimizer"] = False  # torch's AdamW serves both devices
        config["gradient_clipping"] = train.clip_norm
        cast("dict[str, object]", config["zero_optimization"])["stage3_param_persistence_threshold"] = train.whole_parameters
        config["checkpoint"] = {"load_universal": universal}

    def backward(self, closure_loss: Tensor, optimizer: Optimizer | None, *args: Any, **kwargs: Any) -> Tensor:
        """Lightning divides the loss by the accumulation steps and, without being told not to, DeepSpeed does so again."""
        return super().backward(closure_loss, optimizer, *args, scale_wrt_gas=False, **kwargs)

    def load_checkpoint(self, checkpoint_path: str | Path, weights_only: bool | None = None) -> dict[str, Any]:
        """Load a DeepSpeed checkpoint; of all classes only the few that DeepSpeed itself writes are unpickled."""
        with torch.serialization.safe_globals(CHECKPOINT_CLASSES):
            client = super().load_checkpoint(checkpoint_path, weights_only)
            if is_universal(Path(checkpoint_path)):
                complete(self.deepspeed_engine, Path(checkpoint_path))
        return client

    def gradient_norm(self) -> float:
        """Global norm of the last step's gradients before clipping; not finite when DeepSpeed left the step out."""
        if self.deepspeed_engine.optimizer.overflow:
            return float("nan")
        return float(self.deepspeed_engine.get_global_grad_norm())

    def whole_parameters(self, network: nn.Module) -> AbstractContextManager[None]:
        """Within this context every rank sees all parameters whole, whatever the ZeRO stage."""
        return cast(
            "AbstractContextManager[None]", deepspeed.zero.GatheredParameters(list(network.parameters()), enabled=self.zero_stage_3)
        )

    def teardown(self) -> None:
        """Nothing goes to the processor's memory, as Lightning would have it: what is exported is gathered from the devices, afterwards."""

    @torch.no_grad()
    def put_averages(self, network: nn.Module, optimizer: Optimizer) -> None:
        """Overwrite the weights with the averages that the optimizer keeps."""
        zero = self.deepspeed_engine.optimizer
        if not self.zero_stage_3:
            for group in zero.optimizer.param_groups:
                [flat] = group["params"]
                flat.copy_(zero.optimizer.state[flat][AVERAGE])
            return zero.update_lp_params()
        for parameter in network.parameters():
            if parameter.requires_grad:
                average = safe_get_full_optimizer_state(parameter, AVERAGE)
                with deepspeed.zero.GatheredParameters([parameter], modifier_rank=0):
                    parameter.copy_(average)


class CpuZeroStrategy(ZeroStrategy):
    """The same DeepSpeed on CPU ranks, which Lightning refuses by default. Needs DS_ACCELERATOR=cpu in the environment."""

    def __init__(self, train: TrainParams, *, universal: bool = False) -> None:
        super().__init__(train, "gloo", universal=universal)

    @property
    def root_device(self) -> torch.device:
        """With an index, which DeepSpeed takes as the device's rank."""
        return torch.device("cpu", 0)

    def setup_environment(self) -> None:
        super(DeepSpeedStrategy, self).setup_environment()  # DeepSpeedStrategy's own only adds the refusal

    def setup_distributed(self) -> None:
        reset_seed()
        self.set_world_ranks()
        self._set_node_environment_variables()
        # The shared-memory op would be compiled at the first start; gloo does without.
        deepspeed.ops.__compatible_ops__[_SHARED_MEMORY_OP] = False
        deepspeed.init_distributed("gloo", distributed_port=self.cluster_environment.main_port)


def zero_strategy(train: TrainParams, device: str, resume: Path | None = None) -> ZeroStrategy:
    """The strategy of a device type (`cpu` or `cuda`) that goes on from the engine's folder `resume`."""
    universal = resume is not None and is_universal(resume)
    return CpuZeroStrategy(train, universal=universal) if device == "cpu" else ZeroStrategy(train, "nccl", universal=universal)
