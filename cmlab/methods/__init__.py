"""Every other method of the papers: scalings, solvers, guidance, continuous time, distillation, likelihood, search."""
