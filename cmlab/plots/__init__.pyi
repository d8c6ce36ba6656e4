"""What `cmlab.plots` exports: `lazy_loader` reads it when a name is used, type checkers when they look."""

from .figures import (
    COLORS,
    LINES,
    MARKERS,
    MAX_PIXELS,
    from_uint8,
    image_grid,
    plot_along,
    plot_consistency,
    plot_curves,
    plot_fans,
    plot_fields,
    plot_images,
    plot_maps,
    plot_orders,
    plot_points,
    plot_trajectories,
    read_picture,
    side_by_side,
    to_uint8,
    trajectories_3d,
    trajectories_3d_static,
)

__all__ = [
    "COLORS", "LINES", "MARKERS", "MAX_PIXELS", "from_uint8", "image_grid", "plot_along", "plot_consistency", "plot_curves",
    "plot_fans", "plot_fields", "plot_images", "plot_maps", "plot_orders", "plot_points", "plot_trajectories", "read_picture",
    "side_by_side", "to_uint8", "trajectories_3d", "trajectories_3d_static",
]  # fmt: skip
