"""Forward processes: how data turns into noise, and how a network is conditioned on the way.

A process gives noisy = a(sigma) data + b(sigma) noise on levels sigma in [sigma_min, sigma_max], its derivatives, its
grid of levels and its preconditioning. To add one: a frozen dataclass with `@processes.register("name")`, in the file
of its family or in a new one.

==================  ============================  =============  ===========================================
name                a(sigma)                      b(sigma)       c_noise
==================  ============================  =============  ===========================================
``ve``              1                             sigma          ln(sigma) / 4
``bridge``          1 - tau                       tau            ln(tau) / 4, tau = sigma / (1 + sigma)
``linear``          1 - sigma                     sigma          ln(sigma) / 4, sigma <= 1
``conditional_ot``  1 - sigma / sigma_max         sigma          ln(sigma) / 4
``trig``            cos(t)                        sigma_data     t = arctan(sigma / sigma_data)
                                                  sin(t)
==================  ============================  =============  ===========================================

With standard normal noise all five are one path: noisy / a is the variance-exploding state at level b / a. They differ
in scale, in where their levels lie, in how far they reach towards pure noise, and in their preconditioning.
"""

from gcsearch.registry import import_siblings
from gcsearch.science.process.base import Coefficients, Process, check_levels, karras_grid, karras_levels, processes
from gcsearch.science.process.bridge import Bridge
from gcsearch.science.process.linear import ConditionalOT, Linear
from gcsearch.science.process.trig import TrigFlow
from gcsearch.science.process.variance_exploding import VarianceExploding

import_siblings(__name__, __path__)

__all__ = [
    "Bridge",
    "Coefficients",
    "ConditionalOT",
    "Linear",
    "Process",
    "TrigFlow",
    "VarianceExploding",
    "check_levels",
    "karras_grid",
    "karras_levels",
    "processes",
]
