"""Copy a representative part of a folder of reference files: python -m golden.subset SOURCE TARGET (run in tests/).

Whole files where they are small, a few cases of the others; a test asserts that the committed part stays under 4 MB.
"""

import json
import sys
from pathlib import Path

import numpy as np

# stem -> the cases that are kept; None keeps the file as it is. Files that are not named here are left out.
KEEP: dict[str, tuple[str, ...] | None] = {
    "a_schedules": None,
    "b_unet_0": None,
    "c_losses_toy": (
        "edm_karras", "edm_snr+1", "cd_l2_karrasw", "cd_l2-32_up", "cd_lpips_standin", "ct_l1", "ct_l2_N2", "progdist_l2",
    ),
    "c_losses_unet": ("edm", "cd_l2"),
    "c_train_loop": None,
    "d_samplers_analytic": (
        "heun_mix_clip1", "heun_churn_window", "euler_rho", "dpm_churn_cap", "ancestral_mix_clip0", "progdist_gauss_clip1",
        "onestep_rho", "multistep_short_end", "multistep_201", "heun_steps1", "direct_progdist_mix", "direct_dpm_mix",
    ),
    "d_samplers_unet": ("multistep",),
    "e_editing": ("superres_16", "colorization_5_alt", "inpainting_10_f64_alt"),
    "f_ema_scales": None,
    "g_edm_blocks": (
        "adm_attn2", "adm_down", "song_plain", "song_down_ncsn", "song_up_ncsn", "conv_fused_down", "conv_down_1331",
        "resample_only_up_1331", "posemb_endpoint0", "posemb_endpoint1",
    ),
    "g_edm_losses": None,
    "g_edm_net_ncsnpp": None,
    "g_edm_precond": None,
    "g_edm_samplers": None,
    "g_edm_samplers_precond": None,
    "h_ect": None,
    "k_kinyugo": None,
}  # fmt: skip


def main(source: Path, target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    for stem, cases in KEEP.items():
        path = source / f"{stem}.npz"
        if cases is None:
            (target / path.name).write_bytes(path.read_bytes())
            continue
        arrays = np.load(path, allow_pickle=False)
        meta = json.loads(str(arrays["meta"]))
        meta["cases"] = {name: meta["cases"][name] for name in cases}
        kept = {key: arrays[key] for key in arrays.files if key.split("/")[0] in cases}
        np.savez_compressed(target / path.name, **kept, meta=np.array(json.dumps(meta)))
    total = sum(p.stat().st_size for p in target.glob("*.npz"))
    print(f"{total / 1e6:.2f} MB in {target}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
