"""How the app looks, and what it does in the browser by itself."""

from pathlib import Path

from gradio.themes import Default

CSS = r"""
.gradio-container { max-width: 1240px !important; margin: auto; }
.gradio-container > .main { padding: clamp(12px, 3vw, 32px) !important; }
.heading p, .caption p { margin: 0; }
.caption { min-height: 3.2em; font-variant-numeric: tabular-nums; }
:focus-visible { outline: 2px solid var(--walk) !important; outline-offset: 2px; }
/* A panel has its picture's height before there is one. */
.panels .panel { min-height: min(276px, 60vw); }
#strip.panel { min-height: min(76px, 8.6vw); }
.note p { margin: 0; font-size: 0.85rem; opacity: 0.85; }
:root { --walk: #0072B2; --jump: #C24E00; }
.dark { --walk: #56B4E9; --jump: #F08A3C; }
#introduction { align-items: center; }
.drawing { width: 100%; height: auto; max-width: 640px; display: block; margin: auto; }
.notice { border-left: 4px solid #D55E00; padding-left: 0.8em; }
.examples .grid-container { grid-template-columns: repeat(6, 1fr) !important; padding: 0; grid-auto-rows: auto !important; }
.examples .caption-label { display: none; }
.examples .thumbnail-item { min-width: 0; width: 100%; height: auto; aspect-ratio: 1; }
@media (hover: hover) {
  .panel .icon-button-wrapper { opacity: 0; }
  .panel:hover .icon-button-wrapper, .panel .icon-button-wrapper:focus-within { opacity: 1; }
}
.film { min-height: 300px; }
.film:not(.ready) .film-bar { visibility: hidden; }
.film-cells { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px; min-height: 200px; }
.film figure { margin: 0; max-width: 380px; }
.film canvas { width: 100%; image-rendering: pixelated; border-radius: 4px; cursor: zoom-in; display: block; }
.film figcaption { font-size: 0.85rem; }
.film-bar { display: flex; flex-wrap: wrap; gap: 10px; align-items: center; margin-top: 8px; }
.film-bar input { flex: 1 1 160px; }
.film-bar output { flex: 1 1 260px; font-variant-numeric: tabular-nums; min-height: 1.5em; }
.film-bar button { border: 1px solid var(--border-color-primary); border-radius: 4px; padding: 4px 12px; min-width: 70px; }
[id^=sample-] img, #strip img { cursor: zoom-in; }
/* "random" stands inside of its panel, as the numbers of the sliders do. */
.icon-button-wrapper.top-panel:has(> .custom-button) {
  top: 10px !important; right: 12px !important;
  border: 1px solid var(--border-color-primary) !important; border-radius: 4px !important;
}
/* A number is not cut in two: a table that is too wide can be moved. */
.numbers table { display: block; overflow-x: auto; contain: inline-size; width: 100%; }
.numbers th, .numbers td { white-space: nowrap; word-break: normal; overflow-wrap: normal; }
/* A refusal is told once, by its message; the pictures of the last run stay in sight. */
.wrap:has(> .error) { display: none; }
.toast-body[data-refused] .toast-title { font-size: 0; }
.toast-body[data-refused] .toast-title::before { content: "Please check the input"; font-size: var(--text-md); }
/* The plane takes the width that there is, and its picture the height but for what stands above and below it. */
#plane { --around: 330px; width: min(1152px, 100vw - 48px); max-width: 100%; }
/* The tabs' own width would be the least that the page can have. */
.tab-wrapper { contain: inline-size; }
/* Plots are drawn on white: in dark mode they are turned, and their colours turned back. */
.dark img[src$="-plot.png"], .dark .film.plot canvas, .dark .js-plotly-plot { filter: invert(0.92) hue-rotate(180deg); }
.progress-text[data-told] { font-size: 0 !important; }
.progress-text[data-told]::before { content: attr(data-told); font: var(--text-sm) system-ui, sans-serif; }
@media (max-width: 640px) {
  h1 { font-size: 1.05rem !important; }
  #introduction { flex-direction: column; gap: 4px; }
  #introduction p { font-size: 0.9rem; line-height: 1.35; }
  #task label { padding: 4px 8px; }
  .form:has(#mask) { order: 1; }
  .pictures > :is(#edit-film, #edit-download, :has(+ #edit-film)) { order: 2; }
  .lead { order: 3; }
  #introduction > * { width: 100%; }
  /* Pictures first, the panels in a row that can be moved: the first one stands on the first screen, Run right below it. */
  .pictures { order: -1; }
  .panels { flex-wrap: nowrap !important; overflow-x: auto; contain: inline-size; }
  .panels > .column { flex: 0 0 72vw !important; min-width: 0 !important; }
  #theorem { contain: inline-size; overflow-x: auto !important; }
  .tab-container button { padding: 0 8px !important; }
  .wide:has(img)::after { content: "swipe for the rest \2192"; display: block; padding: 2px 8px; font-size: 0.75rem; opacity: 0.7; }
}
"""


def look() -> dict:
    """Options for launch(): the system's fonts (nothing is fetched) and the blue of Okabe and Ito's colour-blind-safe palette."""
    theme = Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"], primary_hue="blue")
    own = {"button_primary_background_fill": "#0072B2", "button_primary_background_fill_hover": "#005A8C"}
    own |= {"button_cancel_background_fill": "#B91C1C", "button_cancel_background_fill_hover": "#991B1B"}
    hints = ("block_info_text_color", "body_text_color_subdued", "input_placeholder_color")  # gradio's own are too pale to read
    light = own | dict.fromkeys(hints, "*neutral_600")
    dark = {"button_primary_background_fill": "#1F78B4", "button_primary_background_fill_hover": "#2B8AC9"}
    dark |= dict.fromkeys(hints, "*neutral_300") | {"link_text_color": "*primary_400"}
    theme.set(**light, **{f"{name}_dark": colour for name, colour in dark.items()})
    script = (Path(__file__).parent / "page.js").read_text("utf-8")
    return {"theme": theme, "css": CSS, "js": script, "run_history": False, "footer_links": ["api", "settings"]}
