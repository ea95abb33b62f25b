from trainables.diffusion_rejection.system import DiffusionRejection

__all__ = ["DiffusionRejection"]
