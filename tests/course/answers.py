"""What students write: for each exercise two right answers of unusual form and three wrong ones of different kinds.

A line is an expression that is returned, or a body of statements. No typical mistake of `exercises` stands here twice, apart from
those that the checks once let pass.
"""

RIGHT: dict[str, list[str]] = {
    "add_noise": [
        "torch.addcmul(x0, torch.as_tensor(sigma, dtype=x0.dtype), eps)",
        "y = x0.clone()\ny += sigma * eps\nreturn y",
    ],
    "one_step": [
        "x = noise * sigma_max\nreturn f(x, torch.full((len(x),), sigma_max))",
        "return f(noise.clone().mul_(sigma_max), sigma_max)",
    ],
    "diffuse": [
        "steps = (sigmas[1:] ** 2 - sigmas[:-1] ** 2).sqrt()\nreturn x + (steps[:, None, None] * z).sum(0)",
        "for s, ds, n in zip(sigmas, sigmas.diff(), z):\n    x = x + (2 * s) ** 0.5 * ds**0.5 * n\nreturn x",
    ],
    "tweedie": [
        "torch.addcmul(x, sigma.square(), score)",
        "x - (-score) * sigma * sigma",
    ],
    "euler_solve": [
        "for s, t in zip(sigmas, sigmas[1:]):\n    x = denoise(x, s) + t / s * (x - denoise(x, s))\nreturn x",
        "for s, t in zip(sigmas, sigmas[1:]):\n    D = denoise(x, s)\n    x = torch.lerp(D, x, t / s)\nreturn x",
    ],
    "network_target": [
        "v = sigma**2 + sigma_data**2\nreturn (x0 * v - sigma_data**2 * x) / (sigma * sigma_data * v**0.5)",
        "a = torch.atan2(sigma, torch.tensor(sigma_data, dtype=sigma.dtype))\nreturn (x0 - a.cos() ** 2 * x) / (sigma * a.cos())",
    ],
    "edm_weight": [
        "1 / sigma_data**2 + sigma**-2",
        "torch.hypot(1 / sigma, torch.full_like(sigma, 1 / sigma_data)).square()",
    ],
    "churned": [
        "gamma = min(churn / steps, 2**0.5 - 1)\nreturn x + sigma * (gamma * (2 + gamma)) ** 0.5 * z",
        "g = torch.tensor(churn / steps).clamp(max=2**0.5 - 1).double()\n"
        "return x + z * ((sigma + sigma * g).square() - sigma.square()).sqrt()",
    ],
    "self_consistency": [
        "last = f(path[-1], sigmas[-1])\n"
        "return torch.tensor([(f(p, s) - last).norm() / last.numel() ** 0.5 for p, s in zip(path, sigmas)])",
        "a = torch.stack([f(p, s) for p, s in zip(path, sigmas)])\nreturn ((a - a[-1:]).flatten(1) ** 2).mean(1) ** 0.5",
    ],
    "indicator_f": [
        "if sigma > eps:\n    return F(x, sigma)\nreturn x.clone()",
        "torch.where(sigma == eps, x, F(x, sigma))",
    ],
    "skip_f": [
        "d = sigma - eps\n"
        "return (x / (1 + (d / sigma_data) ** 2)) + F(x, sigma) * d * sigma_data / (sigma**2 + sigma_data**2).sqrt()",
        "if sigma == eps:\n"
        "    return x\n"
        "v = sigma_data**2\n"
        "return x * v / ((sigma - eps) ** 2 + v) + (v * (sigma - eps) ** 2 / (sigma**2 + v)) ** 0.5 * F(x, sigma)",
    ],
    "heun_bridge": [
        "s, t = sigma.unsqueeze(1), sigma_next.unsqueeze(1)\n"
        "d = (x - denoise(x, sigma)) / s\n"
        "y = x + (t - s) * d\n"
        "return (y + x + (t - s) * (y - denoise(y, sigma_next)) / t) / 2",
        "h = (sigma_next - sigma)[:, None]\n"
        "k1 = (x - denoise(x, sigma)) / sigma.view(-1, 1)\n"
        "k2 = (x + h * k1 - denoise(x + h * k1, sigma_next)) / sigma_next.view(-1, 1)\n"
        "return x + 0.5 * h * k1 + 0.5 * h * k2",
    ],
    "cd_loss": [
        "x = torch.addcmul(x0, sigma[:, None], eps)\n"
        "goal = target(bridge(x, sigma, sigma_next), sigma_next).detach()\n"
        "return torch.nn.functional.mse_loss(f(x, sigma), goal, reduction='none').sum(-1) / (sigma - sigma_next)",
        "x = x0 + eps * sigma.unsqueeze(1)\n"
        "with torch.inference_mode():\n"
        "    y = target(bridge(x, sigma, sigma_next), sigma_next)\n"
        "d = f(x, sigma) - y.clone()\n"
        "return torch.einsum('bi,bi->b', d, d) * (1 / (sigma - sigma_next))",
    ],
    "pd_target": [
        "x + (x_end - x) / (1 - sigma_end / sigma)",
        "(sigma * x_end - sigma_end * x) / (sigma - sigma_end)",
    ],
    "compose": [
        "for pair in zip(sigmas, sigmas[1:]):\n    x = step(x, *pair)\nreturn x",
        "if len(sigmas) == 1:\n    return x\nreturn compose(step, step(x, sigmas[0], sigmas[1]), sigmas[1:])",
    ],
    "order": [
        "errors.log().diff() / steps.log().diff()",
        "torch.log2(errors[:-1] / errors[1:]) / torch.log2(steps[:-1] / steps[1:])",
    ],
    "score_from_pair": [
        "y = x.clone().requires_grad_()\n"
        "log = torch.distributions.Normal(x0, sigma).log_prob(y).sum()\n"
        "return torch.autograd.grad(log, y)[0]",
        "-((x - x0) / sigma) / sigma",
    ],
    "ct_loss": [
        "with torch.no_grad():\n"
        "    goal = f_target(x0 + sigma_next[:, None] * z, sigma_next)\n"
        "return (f(x0 + sigma[:, None] * z, sigma) - goal).norm(dim=1) ** 2",
        "d = f(x0 + z * sigma.view(-1, 1), sigma) - f_target(x0 + z * sigma_next.view(-1, 1), sigma_next)\nreturn (d * d).sum(-1)",
    ],
    "algorithm_3": [
        "t, path = theta.clone(), [theta]\n"
        "for k in range(len(x0)):\n"
        "    w = path[-1].detach().requires_grad_()\n"
        "    s, r = sigma[k][:, None], sigma_next[k][:, None]\n"
        "    d = f(w, x0[k] + s * z[k], sigma[k]) - f(t, x0[k] + r * z[k], sigma_next[k])\n"
        "    (d.square().sum() / len(d)).backward()\n"
        "    path.append((w - lr * w.grad).detach())\n"
        "    t = torch.lerp(path[-1], t, mu[k])\n"
        "return torch.stack(path)",
        "minus, out = theta, [theta]\n"
        "for a, n, s, r, m in zip(x0, z, sigma, sigma_next, mu):\n"
        "    goal = f(minus, a + r[:, None] * n, r)\n"
        "    g = torch.func.grad(lambda w: (f(w, a + s[:, None] * n, s) - goal).pow(2).sum(1).mean())(out[-1])\n"
        "    out.append(out[-1] - lr * g)\n"
        "    minus = minus + (1 - m) * (out[-1] - minus)\n"
        "return torch.stack(out)",
    ],
    "partner": [
        "z = (x - x0) / sigma\nreturn x0 + sigma_next * z",
        "torch.lerp(x0, x, sigma_next / sigma)",
    ],
    "bias_and_noise": [
        "m = gradients.mean(0)\nreturn torch.tensor([(m - truth).norm(), gradients.var(0).sum().sqrt()]) / truth.norm()",
        "m, n = gradients.mean(0), torch.linalg.norm(truth)\n"
        "var = gradients.pow(2).sum(1).mean() - m @ m\n"
        "return torch.stack([torch.dist(m, truth) / n, var**0.5 / n])",
    ],
    "levels_at": [
        "import math\nreturn math.ceil(math.sqrt(progress * ((s1 + 1) ** 2 - s0**2) + s0**2) - 1) + 1",
        "n = s0\nwhile n**2 < progress * ((s1 + 1) ** 2 - s0**2) + s0**2 - 1e-9:\n    n += 1\nreturn torch.tensor(n)",
    ],
    "decay_at": [
        "import math\nreturn math.exp(s0 * math.log(mu0) / n)",
        "torch.tensor(mu0).double().log().mul(s0 / n).exp()",
    ],
    "lower": [
        "share = (1 + 8 / (1 + sigma.exp())) / q ** (stage + 1)\nreturn torch.relu(sigma - sigma * share)",
        "n = 5 - 4 * torch.tanh(sigma / 2)\nreturn torch.maximum(torch.zeros_like(sigma), sigma * (1 - n * q ** -(stage + 1)))",
    ],
    "algorithm_1": [
        "x = f(x_T, 80.0)\n"
        "for tau, noise in zip(taus, z):\n"
        "    x = f(x + noise * ((tau - eps) * (tau + eps)) ** 0.5, tau)\n"
        "return x",
        "import math\n"
        "x = f(x_T, torch.full((len(x_T),), 80.0))\n"
        "for k in range(len(taus)):\n"
        "    x = f(torch.add(x, z[k], alpha=math.sqrt(taus[k] ** 2 - eps**2)), torch.tensor(taus[k]))\n"
        "return x",
    ],
    "ternary": [
        "while low < high:\n"
        "    m = (low + high) // 2\n"
        "    low, high = (low, m) if score(m) < score(m + 1) else (m + 1, high)\n"
        "return low",
        "if high - low < 3:\n"
        "    return min(range(low, high + 1), key=score)\n"
        "third = (high - low) // 3\n"
        "if score(low + third) > score(high - third):\n"
        "    return ternary(score, low + third, high)\n"
        "return ternary(score, low, high - third)",
    ],
    "spherical": [
        "psi = torch.arccos(torch.nn.functional.cosine_similarity(z1, z2, dim=0))\n"
        "return (((1 - a) * psi).sin() * z1 + (a * psi).sin() * z2) / psi.sin()",
        "u, v = z1 / z1.norm(), z2 / z2.norm()\n"
        "psi = 2 * torch.atan2((u - v).norm(), (u + v).norm())\n"
        "w = torch.sin(torch.stack([(1 - a) * psi, a * psi])) / psi.sin()\n"
        "return w[0] * z1 + w[1] * z2",
    ],
    "replace_kept": [
        "A_inv(torch.where(free.bool(), A(x0_hat), A(y)))",
        "A_inv(torch.lerp(A(y), A(x0_hat), free))",
    ],
    "rate_along": [
        "_, rate = torch.func.jvp(f, (x, t), (v, torch.tensor(1.0).to(t)))\nreturn rate",
        "_, by_x = torch.func.jvp(lambda y: f(y, t), (x,), (v,))\n"
        "_, by_t = torch.func.jvp(lambda s: f(x, s), (t,), (torch.ones_like(t),))\n"
        "return by_x + by_t",
    ],
    "trig_denoise": [
        "t.cos() * x + t.sin() * (-sd) * F(x / sd, t)",
        "c, s = torch.cos(t), (1 - torch.cos(t) ** 2).sqrt()\nreturn sd * (c * (x / sd) - s * F(x / sd, t))",
    ],
    "pair_loss": [
        "with torch.no_grad():\n"
        "    goal = f(x0 + s * z if solver is None else solver(x0 + t * z, t, s), s)\n"
        "return ((goal - f(x0 + t * z, t)) ** 2).sum(-1)",
        "x = x0 + t * z\n"
        "y = solver(x, t, s) if solver else x + (s - t) * (x - x0) / t\n"
        "return (f(x, t) - f(y, s).detach()).norm(dim=1) ** 2",
    ],
}

WRONG: dict[str, list[str]] = {
    "add_noise": [
        "x0 += sigma * eps\nreturn x0",
        "x0 + eps / sigma",
        "(x0 + sigma * eps) / (1 + sigma**2) ** 0.5",
    ],
    "one_step": [
        "f(sigma_max**2 * noise, torch.tensor(sigma_max))",
        "sigma_max * noise",
        "noise *= sigma_max\nreturn f(noise, torch.tensor(sigma_max))",
    ],
    "diffuse": [
        "for k in range(len(z)):\n    x += (2 * sigmas[k] * (sigmas[k + 1] - sigmas[k])).sqrt() * z[k]\nreturn x",
        "x + sigmas[-1] * z[-1]",
        "x + ((2 * sigmas[:-1] * sigmas.diff()).sqrt()[:, None, None] * z)[:-1].sum(0)",
    ],
    "tweedie": [
        "x + sigma**2 * score / 2",
        "score * sigma**2",
        "x.add_(sigma**2 * score)",
    ],
    "euler_solve": [
        "return denoise(x, sigmas[0])",
        "for k in range(len(sigmas) - 1):\n"
        "    x += (sigmas[k + 1] - sigmas[k]) * (x - denoise(x, sigmas[k])) / sigmas[k]\n"
        "return x",
        "for k in range(len(sigmas) - 1):\n"
        "    x = x + (sigmas[k + 1] - sigmas[k]) * (x - denoise(x, sigmas[k + 1])) / sigmas[k]\n"
        "return x",
    ],
    "network_target": [
        "(x - x0) / sigma",
        "x0 - sigma_data**2 / (sigma**2 + sigma_data**2) * x",
        "x0 / sigma_data",
    ],
    "edm_weight": [
        "torch.ones_like(sigma)",
        "sigma**2 * sigma_data**2 / (sigma**2 + sigma_data**2)",
        "(sigma + sigma_data) ** 2 / (sigma * sigma_data) ** 2",
    ],
    "churned": [
        "x + sigma * (1 + churn / steps) * z",
        "gamma = min(churn / steps, 2**0.5 - 1)\nreturn x * (1 + gamma)",
        "gamma = min(churn, 2**0.5 - 1)\nreturn x + sigma * ((1 + gamma) ** 2 - 1) ** 0.5 * z",
    ],
    "self_consistency": [
        "a = torch.stack([f(p, s) for p, s in zip(path, sigmas)])\nreturn (a - a[-1]).square().mean().sqrt()",
        "a = torch.stack([f(p, s) for p, s in zip(path, sigmas)])\nreturn (a - a[-1]).square().sum((1, 2)).sqrt()",
        "a = torch.stack([f(p, s) for p, s in zip(path, sigmas)])\nreturn (a - a[-1]).abs().mean((1, 2))",
    ],
    "indicator_f": [
        "x",
        "torch.zeros_like(x) if sigma == eps else F(x, sigma)",
        "x + F(x, sigma) if sigma > eps else x",
    ],
    "skip_f": [
        "x + (sigma - eps) * F(x, sigma)",
        "d = sigma_data**2 + (sigma - eps) ** 2\n"
        "return sigma_data / d**0.5 * x + sigma_data * (sigma - eps) / d**0.5 * F(x, sigma)",
        "x if sigma == eps else F(x, sigma)",
    ],
    "heun_bridge": [
        "d = (x - denoise(x, sigma)) / sigma[:, None]\n"
        "y = x + (sigma_next - sigma)[:, None] * d\n"
        "return y + (sigma_next - sigma)[:, None] * (y - denoise(y, sigma_next)) / sigma_next[:, None]",
        "h, s, t = (sigma_next - sigma)[:, None], sigma[:, None], sigma_next[:, None]\n"
        "y = x + h * (x - denoise(x, sigma)) / s\n"
        "x += h * ((x - denoise(x, sigma)) / s + (y - denoise(y, sigma_next)) / t) / 2\n"
        "return x",
        "denoise(x, sigma)",
    ],
    "cd_loss": [
        "with torch.no_grad():\n"
        "    x = x0 + sigma[:, None] * eps\n"
        "    return (f(x, sigma) - target(bridge(x, sigma, sigma_next), sigma_next)).square().sum(1) / (sigma - sigma_next)",
        "x = x0 + sigma[:, None] * eps\n"
        "return (f(x, sigma) - target(bridge(x, sigma, sigma_next), sigma_next)).square().sum(1) / (sigma - sigma_next)",
        "x = x0 + sigma[:, None] * eps\n"
        "return (f(x, sigma).detach() - target(bridge(x, sigma, sigma_next), sigma_next)).square().sum(1) / (sigma - sigma_next)",
        "x = x0 + sigma[:, None] * eps\n"
        "with torch.no_grad():\n"
        "    goal = f(bridge(x, sigma, sigma_next), sigma_next)\n"
        "return (f(x, sigma) - goal).square().sum(1) / (sigma - sigma_next)",
        "x = x0 + sigma[:, None] * eps\nreturn (f(x, sigma) - x0).square().sum(1) / (sigma - sigma_next)",
    ],
    "pd_target": [
        "x_end - sigma_end / sigma * x",
        "(x_end - x) / (1 - sigma_end / sigma)",
        "(x_end + x) / 2",
    ],
    "compose": [
        "for k in range(1, len(sigmas) - 1):\n    x = step(x, sigmas[k], sigmas[k + 1])\nreturn x",
        "x",
        "for k in reversed(range(len(sigmas) - 1)):\n    x = step(x, sigmas[k], sigmas[k + 1])\nreturn x",
    ],
    "order": [
        "-(errors[1:] / errors[:-1]).log() / (steps[1:] / steps[:-1]).log()",
        "errors.log()[1:] / steps.log()[1:]",
        "(errors.log()[-1] - errors.log()[0]) / (steps.log()[-1] - steps.log()[0])",
    ],
    "score_from_pair": [
        "(x0 - x) / (2 * sigma**2)",
        "-(x - x0).square() / (2 * sigma**2)",
        "-x / sigma**2",
    ],
    "ct_loss": [
        "(f(x0 + sigma[:, None] * z, sigma) - f(x0 + sigma_next[:, None] * z, sigma_next)).square().sum(1)",
        "(f(x0 + sigma[:, None] * z, sigma).detach() - f_target(x0 + sigma_next[:, None] * z, sigma_next)).square().sum(1)",
        "(f(x0 + sigma[:, None] * z, sigma) - f_target(x0 + sigma_next[:, None] * z, sigma_next)).norm(dim=1)",
    ],
    "algorithm_3": [
        "return theta.repeat(len(x0) + 1, 1)",
        "minus, out = theta, [theta]\n"
        "for a, n, s, r, m in zip(x0, z, sigma, sigma_next, mu):\n"
        "    loss = lambda w: (f(w, a + s[:, None] * n, s) - f(w, a + r[:, None] * n, r)).pow(2).sum(1).mean()\n"
        "    g = torch.func.grad(loss)(out[-1])\n"
        "    out.append(out[-1] - lr * g)\n"
        "return torch.stack(out)",
        "minus, out = theta, [theta]\n"
        "for a, n, s, r, m in zip(x0, z, sigma, sigma_next, mu):\n"
        "    g = torch.func.grad(lambda w: (f(w, a + s[:, None] * n, s) - f(minus, a + r[:, None] * n, r)).pow(2).sum())(out[-1])\n"
        "    out.append(out[-1] - lr * g)\n"
        "    minus = m * minus + (1 - m) * out[-1]\n"
        "return torch.stack(out)",
    ],
    "partner": [
        "x + (sigma_next - sigma) * (x - x0)",
        "x0 + sigma_next * (x - x0)",
        "x - x0",
    ],
    "bias_and_noise": [
        "b, n = (gradients.mean(0) - truth).norm(), gradients.std()\nreturn torch.stack([b, n]) / truth.norm()",
        "b = (gradients.mean(0) - truth).norm() / truth.norm()\nreturn torch.stack([b, b])",
        "gradients.mean(0)[:2]",
    ],
    "levels_at": [
        "round((progress * ((s1 + 1) ** 2 - s0**2) + s0**2) ** 0.5 - 1) + 1",
        "int((progress * (s1**2 - s0**2) + s0**2) ** 0.5) + 1",
        "s1 + 1",
    ],
    "decay_at": [
        "mu0 * s0 / n",
        "1 - (1 - mu0) * s0 / n",
        "mu0 ** (1 / n)",
    ],
    "lower": [
        "sigma / q",
        "sigma * (1 - 1 / q ** (stage + 1))",
        "n = 1 + 8 * torch.sigmoid(-sigma)\nreturn sigma * (1 - n / (q * (stage + 1))).clamp(0, 1)",
    ],
    "algorithm_1": [
        "f(x_T, torch.tensor(80.0))",
        "x = f(x_T, torch.tensor(80.0))\n"
        "for k, tau in enumerate(taus):\n"
        "    x = f(x_T + (tau**2 - eps**2) ** 0.5 * z[k], torch.tensor(tau))\n"
        "return x",
        "x = f(x_T, torch.tensor(80.0))\n"
        "for k, tau in enumerate(taus):\n"
        "    x = f(x + (tau**2 - eps**2) ** 0.5 * z[0], torch.tensor(tau))\n"
        "return x + 0.01",
    ],
    "ternary": [
        "min(range(low, high + 1), key=score)",
        "(low + high) // 2",
        "while high - low > 2:\n    high -= 1\nreturn low",
    ],
    "spherical": [
        "z = (1 - a) * z1 + a * z2\nreturn z / z.norm() * z1.norm()",
        "(1 - a) ** 0.5 * z1 + a**0.5 * z2",
        "psi = torch.acos((z1 * z2).sum())\nreturn (torch.sin((1 - a) * psi) * z1 + torch.sin(a * psi) * z2) / torch.sin(psi)",
    ],
    "replace_kept": [
        "y * (1 - free) + x0_hat * free",
        "A_inv(A(y) + A(x0_hat) * free)",
        "A(A_inv(y) * (1 - free) + A_inv(x0_hat) * free)",
    ],
    "rate_along": [
        "h = 0.1\nreturn (f(x + h * v, t + h) - f(x, t)) / h",
        "v",
        "torch.func.jvp(f, (x, t), (v, -torch.ones_like(t)))[1]",
    ],
    "trig_denoise": [
        "torch.cos(t) * x - torch.sin(t) * F(x, t)",
        "x - t * sd * F(x / sd, t)",
        "(torch.cos(t) * x - torch.sin(t) * sd * F(x / sd, t)) / torch.cos(t)",
    ],
    "pair_loss": [
        "y = solver(x0 + t * z, t, s) if solver else x0 + s * z\nreturn (f(x0 + t * z, t) - f(y, s)).square().sum(1)",
        "y = solver(x0 + t * z, t, s) if solver else x0 + s * z\nreturn (f(x0 + t * z, t).detach() - f(y, s)).square().sum(1)",
        "(f(x0 + t * z, t) - x0).square().sum(1)",
        "with torch.no_grad():\n"
        "    y = solver(x0 + t * z, t, s) if solver else x0 + s * z\n"
        "    return (f(x0 + t * z, t) - f(y, s)).square().sum(1)",
    ],
}
