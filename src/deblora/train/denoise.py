"""The denoising loss: what Stable Diffusion was pre-trained with, here for the first adapter."""

import torch
from jaxtyping import Float, Int
from torch import nn
from torch.nn import functional
from torch.utils.data import Dataset

from deblora.models.backbone import Backbone
from deblora.models.backbones.diffusion import diffusion_of, keyed_generator


class Numbered(Dataset[dict[str, torch.Tensor]]):
    """Pixels of a training order with their place in it; labels are left behind.

    Noise drawn by this number is the same after a resume and on any number of processes.
    """

    def __init__(self, samples: Dataset[dict[str, torch.Tensor]]) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"pixels": self.samples[index]["pixels"], "number": torch.tensor(index)}


class Denoise(nn.Module):
    """Predict the noise in noised latents (arXiv 2006.11239, 2112.10752).

    ::

        loss = mean || UNet(sqrt(abar_t) z0 + sqrt(1 - abar_t) e, t, prompt) - target ||^2

    with t uniform over all steps of the scheduler and e standard normal. The target is e, or
    ``v = sqrt(abar_t) e - sqrt(1 - abar_t) z0`` where the model predicts velocity.

    Args:
        backbone: Diffusion model with a trainable adapter.
        seed: Seed of steps and noise.

    Raises:
        ModelError: If the backbone is no diffusion model.
    """

    def __init__(self, backbone: Backbone, *, seed: int) -> None:
        super().__init__()
        self.backbone, self.seed = backbone, seed
        diffusion_of(backbone)

    def forward(
        self, pixels: Float[torch.Tensor, "b 3 h w"], number: Int[torch.Tensor, " b"]
    ) -> dict[str, torch.Tensor]:
        """Return the loss of a batch."""
        diffusion = diffusion_of(self.backbone)
        clean = diffusion.latents(pixels)
        noise, steps = self.draw(number.tolist(), clean.shape[1:])
        noise, steps = noise.to(clean), steps.to(clean.device)
        noisy = diffusion.scheduler.add_noise(clean, noise, steps)
        predicted = diffusion.predict(self.backbone.encoder, noisy, steps)
        velocity = diffusion.scheduler.config.prediction_type == "v_prediction"
        target = diffusion.scheduler.get_velocity(clean, noise, steps) if velocity else noise
        return {"loss": functional.mse_loss(predicted.float(), target.float())}

    def draw(
        self, numbers: list[int], shape: torch.Size
    ) -> tuple[Float[torch.Tensor, "b c h w"], Int[torch.Tensor, " b"]]:
        """Return noise and timestep of some samples by their place in the training order."""
        n_steps = int(diffusion_of(self.backbone).scheduler.config.num_train_timesteps)
        noise, steps = [], []
        for number in numbers:
            generator = keyed_generator(self.seed, number)
            steps.append(int(torch.randint(n_steps, (), generator=generator)))
            noise.append(torch.randn(tuple(shape), generator=generator))
        return torch.stack(noise), torch.tensor(steps)
