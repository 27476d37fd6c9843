"""The science: processes, schedules, couplings, objectives, networks, samplers. Pure PyTorch.

Notation, from paper symbol to code name. Code uses only the names on the right.

====================  ==================  =====================================================================
paper                 code                meaning, shape, unit
====================  ==================  =====================================================================
x, x*                 ``data``            clean example, (B, *event), in [-1, 1] for images
z                     ``noise``           source sample, standard normal unless the data set says otherwise
sigma_i, t            ``sigma``           noise level of a process, (B,), in units of the data
sigma_i, sigma_i+1    ``sigma_lower``,    two neighbouring levels of the grid; the teacher is evaluated at the
                      ``sigma_upper``     lower one, the student at the upper one
x_sigma               ``noisy``           a(sigma) data + b(sigma) noise
f(x, sigma)           ``ConsistencyFunction``  the network with its preconditioning; f(x, sigma_min) = x
f-bar                 ``predictor``       the network that generates end points for GC: EMA or online weights
N(k)                  ``num_levels``      number of noise levels at step k (intervals: one less)
k, K                  ``step``,           steps done and planned; every schedule is a function of both
                      ``num_steps``
mu                    ``mu``              probability that an example uses a generated end point
lambda(sigma)         ``weighting``       weight of a pair of levels in the loss
p(sigma_i)            ``levels``          probability of drawing interval i of the grid
d                     ``event.numel()``   scalars in one example
====================  ==================  =====================================================================

Sources: GC = Issenhuth et al., "Improving Consistency Models with Generator-Augmented Flows" (arXiv:2406.09570; v1 of
June 2024 and the ICML 2025 version); CM = Song et al. 2023 (arXiv:2303.01469); iCT = Song & Dhariwal 2023
(arXiv:2310.14189); EDM = Karras et al. 2022 (arXiv:2206.00364).
"""
