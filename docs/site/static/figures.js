// Plotly's figures take the place of their still pictures.
for (const still of document.querySelectorAll(".plotly-figure")) {
  const { data, layout } = JSON.parse(still.nextElementSibling.textContent);
  still.replaceChildren();
  Plotly.newPlot(still, data, { ...layout, width: undefined, autosize: true }, { responsive: true, displaylogo: false });
}
